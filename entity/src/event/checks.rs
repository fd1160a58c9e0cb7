//! What the data of an event must hold. Later code relies on it, because a writer to the queue can send anything.

use super::{Change, ClientChanged, InvalidEvent, Line, OrderPlaced, ProductChanged, Refund, printable, total};

/// Limits of an order. The rules of placing orders enforce them, and so does reading a message from the queue.
pub const MAX_LINES: usize = 100;
pub const MAX_QUANTITY: i32 = 10_000;
/// Minor units. A client's sums in 64 bits overflow only after nine million orders of this size.
pub const MAX_TOTAL: i64 = 1_000_000_000_000;
/// Characters of a name or an e-mail address.
pub const MAX_NAME: usize = 200;
/// Characters of a SKU.
pub const MAX_SKU: usize = 64;

pub(super) fn require(holds: bool, fault: &'static str) -> Result<(), InvalidEvent> {
    if holds { Ok(()) } else { Err(InvalidEvent::Contradiction(fault)) }
}

/// Whether a text can be a SKU: from 1 to 64 ASCII characters, without spaces and control characters.
pub fn is_sku(text: &str) -> bool {
    (1..=MAX_SKU).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_short(name: &str) -> bool {
    name.chars().count() <= MAX_NAME
}

fn check_currency(currency: &str, here: &str) -> Result<(), InvalidEvent> {
    match currency == here {
        true => Ok(()),
        false => Err(InvalidEvent::Currency { event: printable(currency), here: here.to_owned() }),
    }
}

impl Change {
    /// `here` is the currency of the store (ISO 4217).
    pub(super) fn check(&self, here: &str) -> Result<(), InvalidEvent> {
        match self {
            Change::OrderPlaced(order) => order.check(here),
            Change::OrderCancelled(refund) => refund.check(here),
            Change::OrderRefunded(refund) => {
                require(refund.amount > 0, "data.amount is below 1")?;
                refund.check(here)
            }
            Change::Client(client) => client.check(),
            Change::Product(product) => product.check(here),
        }
    }

    /// Names, addresses and reasons.
    pub(super) fn texts(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Change::OrderPlaced(order) => Box::new(order.texts()),
            Change::OrderCancelled(refund) | Change::OrderRefunded(refund) => {
                Box::new(refund.order.texts().chain(refund.reason.as_deref()))
            }
            Change::Client(client) => Box::new([&*client.client_name, &*client.client_email].into_iter()),
            Change::Product(product) => Box::new([&*product.name].into_iter().chain(product.sku.as_deref())),
        }
    }
}

impl OrderPlaced {
    fn texts(&self) -> impl Iterator<Item = &str> {
        [&*self.client_name, &*self.client_email].into_iter().chain(self.lines.iter().map(|line| &*line.name))
    }

    fn check(&self, here: &str) -> Result<(), InvalidEvent> {
        check_client(self.client_id, &self.client_name, &self.client_email)?;
        check_currency(&self.currency, here)?;
        let in_range =
            |line: &Line| line.product_id > 0 && line.unit_price >= 0 && (1..=MAX_QUANTITY).contains(&line.quantity);
        require((1..=MAX_LINES).contains(&self.lines.len()), "data.lines are out of range")?;
        require(self.lines.iter().all(in_range), "data.lines are out of range")?;
        require(self.lines.iter().all(|line| is_short(&line.name)), "a name in data.lines is too long")?;
        require(total(&self.lines) == Some(self.total), "data.total is not the sum of data.lines")
    }
}

impl Refund {
    fn check(&self, here: &str) -> Result<(), InvalidEvent> {
        self.order.check(here)?;
        require(self.placed_version >= 1, "data.placedVersion is below 1")?;
        require(self.reason.as_deref().is_none_or(is_short), "data.reason is too long")?;
        require(self.amounts.len() == self.order.lines.len(), "data.amounts are not one for each line")?;
        let is_part = |(amount, line): (&i64, &Line)| (0..=line.total().unwrap_or(0)).contains(amount);
        require(self.amounts.iter().zip(&self.order.lines).all(is_part), "data.amounts are out of range")?;
        // The sum cannot overflow: it is at most the order's total.
        require(self.amounts.iter().sum::<i64>() == self.amount, "data.amount is not the sum of data.amounts")
    }
}

impl ClientChanged {
    fn check(&self) -> Result<(), InvalidEvent> {
        check_client(self.client_id, &self.client_name, &self.client_email)
    }
}

fn check_client(id: i64, name: &str, email: &str) -> Result<(), InvalidEvent> {
    require(id > 0, "data.clientId is below 1")?;
    require(is_short(name) && is_short(email), "data.clientName or data.clientEmail is too long")
}

impl ProductChanged {
    fn check(&self, here: &str) -> Result<(), InvalidEvent> {
        require(self.product_id > 0, "data.productId is below 1")?;
        check_currency(&self.currency, here)?;
        require(is_short(&self.name), "data.name is too long")?;
        require(self.sku.as_deref().is_none_or(is_sku), "data.sku is not a SKU")?;
        require((0..=MAX_TOTAL).contains(&self.price), "data.price is out of range")
    }
}
