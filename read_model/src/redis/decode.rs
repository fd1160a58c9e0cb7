//! Parsing stored values, and the text of a product.

use std::collections::HashMap;

use chrono::DateTime;
use entity::ProductChanged;

use crate::{Client, Error, OrderSummary, Product, ProjectedClient, RankPosition, Sum};

/// The fields of a client that [`read_client`] needs, in the order of [`ClientFields`].
pub const CLIENT_FIELDS: [&str; 8] =
    ["name", "email", "total", "orders", "last_purchase", "version", "refunded", "cancelled"];
/// The values of [`CLIENT_FIELDS`].
pub type ClientFields =
    (Option<String>, Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<i32>, Option<i64>, Option<i64>);

pub fn read_client(id: i64, fields: ClientFields) -> Result<Option<Client>, Error> {
    let damaged = || Error::Damaged(format!("client {id} has missing fields or an invalid date"));
    match fields {
        (None, None, None, None, None, None, None, None) => Ok(None),
        (Some(name), Some(email), Some(total), Some(order_count), last_purchase, version, refunded, cancelled) => {
            let last_purchase =
                last_purchase.map(|ms| DateTime::from_timestamp_millis(ms).ok_or_else(damaged)).transpose()?;
            let version = version.unwrap_or(0);
            let cancelled = Sum { count: cancelled.unwrap_or(0), revenue: refunded.unwrap_or(0) };
            Ok(Some(Client { id, name, email, total, order_count, cancelled, last_purchase, version }))
        }
        _ => Err(damaged()),
    }
}

/// Reads all fields of a client, as bytes: a value that is not text is damaged.
pub fn read_projected_client(id: i64, fields: &HashMap<Vec<u8>, Vec<u8>>) -> Result<Option<ProjectedClient>, Error> {
    if fields.is_empty() {
        return Ok(None);
    }
    let damaged = |field: &str| Error::Damaged(format!("the field {field} of client {id}"));
    let mut projected = ProjectedClient::new(id);
    let client = &mut projected.client;
    let (mut name, mut email) = (None, None);
    for (field, value) in fields {
        let field = str::from_utf8(field).map_err(|_| damaged("whose name is not text"))?;
        let value = str::from_utf8(value).map_err(|_| damaged(field))?;
        let count = || value.parse::<i32>().map_err(|_| damaged(field));
        match field {
            "name" => name = Some(value.to_owned()),
            "email" => email = Some(value.to_owned()),
            "total" => client.total = value.parse().map_err(|_| damaged(field))?,
            "orders" => client.order_count = value.parse().map_err(|_| damaged(field))?,
            "refunded" => client.cancelled.revenue = value.parse().map_err(|_| damaged(field))?,
            "cancelled" => client.cancelled.count = value.parse().map_err(|_| damaged(field))?,
            "version" => client.version = count()?,
            "newest" => projected.newest = count()?,
            "last_purchase" => {
                let time = value.parse().ok().and_then(DateTime::from_timestamp_millis);
                client.last_purchase = Some(time.ok_or_else(|| damaged(field))?);
            }
            _ => {
                let version = field.strip_prefix("ahead:").and_then(|version| version.parse().ok());
                projected.ahead.insert(version.ok_or_else(|| damaged(field))?);
            }
        }
    }
    (client.name, client.email) = name.zip(email).ok_or_else(|| damaged("name or email"))?;
    Ok(Some(projected))
}

pub fn read_order_summary(client: i64, text: &str) -> Result<OrderSummary, Error> {
    OrderSummary::from_text(client, text)
        .ok_or_else(|| Error::Damaged(format!("{text:?} in the recent orders of a client")))
}

/// Reads ids and ranks in turn.
pub fn read_positions(text: &str) -> Result<Vec<RankPosition>, Error> {
    let parts: Vec<&str> = text.split_ascii_whitespace().collect();
    let position =
        |[id, rank]: &[&str; 2]| Some(RankPosition { rank: rank.parse::<f64>().ok()? as i64, id: id.parse().ok()? });
    let positions = parts.as_chunks().0.iter().map(position).collect::<Option<_>>();
    positions.ok_or_else(|| Error::Damaged(format!("{text:?} in a ranking")))
}

/// The size of a bucket: revenue and number of orders.
pub const BUCKET_BYTES: usize = size_of::<[i64; 2]>();

/// Reads a bucket page: revenue and number of orders of each bucket. The last bucket may be shorter.
pub fn read_buckets(page: &[u8]) -> impl ExactSizeIterator<Item = Sum> {
    let number = |bytes: Option<&[u8]>| bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_be_bytes);
    page.chunks(BUCKET_BYTES)
        .map(move |bucket| Sum { revenue: number(bucket.get(..8)), count: number(bucket.get(8..16)) })
}

/// Sets `sales` by the fields and values of a part of a product hash, in turn.
pub fn read_product_sales(text: &str, sales: &mut HashMap<i64, Sum>) -> Result<(), Error> {
    let mut parts = text.split_ascii_whitespace();
    while let Some(field) = parts.next() {
        let damaged = || Error::Damaged(format!("the field {field} of the product sales"));
        let (product, part) = field.split_once(':').ok_or_else(damaged)?;
        let amount: i64 = parts.next().and_then(|amount| amount.parse().ok()).ok_or_else(damaged)?;
        let sold = sales.entry(product.parse().map_err(|_| damaged())?).or_default();
        match part {
            "units" => sold.count = amount,
            "revenue" => sold.revenue = amount,
            _ => return Err(damaged()),
        }
    }
    Ok(())
}

/// The text of a product without its version. Older entries, and those of products that are available without SKU, end with the name.
pub fn product_text(product: &ProductChanged) -> String {
    let ProductChanged { price, name, available, sku, .. } = product;
    // A tab of the name itself is followed by another one, so that it is not read as the end of the name.
    if *available && sku.is_none() && !name.contains('\t') {
        return format!("{price} {name}");
    }
    let sign = if *available { '+' } else { '-' };
    format!("{price} {name}\t{sign}{}", sku.as_deref().unwrap_or_default())
}

pub fn read_product(id: i64, text: &str) -> Result<Product, Error> {
    let product = || {
        let (version, rest) = text.split_once(' ')?;
        let (price, rest) = rest.split_once(' ')?;
        let (name, details) = rest.rsplit_once('\t').unwrap_or((rest, "+"));
        let (sign, sku) = details.split_at_checked(1)?;
        Some(Product {
            id,
            name: name.to_owned(),
            price: price.parse().ok()?,
            available: match sign {
                "+" => true,
                "-" => false,
                _ => return None,
            },
            sku: (!sku.is_empty()).then(|| sku.to_owned()),
            version: version.parse().ok()?,
        })
    };
    product().ok_or_else(|| Error::Damaged(format!("product {id} of the catalogue: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_read_as_it_was_written_and_so_are_entries_without_details() {
        for name in ["Lamp", "Red lamp +1", "Lamp\t-", "\t+", " ", ""] {
            for (available, sku) in [(true, None), (false, None), (true, Some("LAMP-1")), (false, Some("+-"))] {
                let (name, sku, currency) = (name.to_owned(), sku.map(ToOwned::to_owned), "USD".to_owned());
                let change = ProductChanged { product_id: 7, name, price: 100, currency, available, sku };
                let text = format!("5 {}", product_text(&change));
                assert_eq!(read_product(7, &text), Ok(Product::of(&change, 5)), "{text:?}");
            }
        }
        let old = Product { id: 7, name: "Red lamp".into(), price: 100, available: true, sku: None, version: 5 };
        assert_eq!(read_product(7, "5 100 Red lamp"), Ok(old));
        for damaged in ["", "5", "5 100", "x 100 Lamp", "5 x Lamp", "5 100 Lamp\t", "5 100 Lamp\tx"] {
            assert!(matches!(read_product(7, damaged), Err(Error::Damaged(_))), "{damaged:?}");
        }
    }
}
