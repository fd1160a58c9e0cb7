//! Scopes that a token can have. Others are ignored.

pub const PLACE_ORDERS: &str = "orders:place";
pub const CANCEL_ORDERS: &str = "orders:cancel";
/// Refund orders, at any time. For the staff, not for clients.
pub const REFUND_ORDERS: &str = "orders:refund";
pub const READ_ORDERS: &str = "orders:read";
pub const READ_CLIENTS: &str = "clients:read";
pub const WRITE_CLIENTS: &str = "clients:write";
/// Erase personal data.
pub const FORGET_CLIENTS: &str = "clients:forget";
pub const READ_PRODUCTS: &str = "products:read";
pub const WRITE_PRODUCTS: &str = "products:write";
pub const READ_SALES: &str = "sales:read";
/// Read the state of the service. For operators.
pub const READ_SYSTEM: &str = "system:read";
/// Send dead letters back to the queue, and delete them. For operators.
pub const WRITE_SYSTEM: &str = "system:write";
/// Run any document, even when documents must be trusted.
pub const EXPLORE: &str = "graphql:explore";

pub const SCOPES: [&str; 13] = [
    PLACE_ORDERS,
    CANCEL_ORDERS,
    REFUND_ORDERS,
    READ_ORDERS,
    READ_CLIENTS,
    WRITE_CLIENTS,
    FORGET_CLIENTS,
    READ_PRODUCTS,
    WRITE_PRODUCTS,
    READ_SALES,
    READ_SYSTEM,
    WRITE_SYSTEM,
    EXPLORE,
];
