use async_graphql::connection::PageInfo;
use async_graphql::{ID, InputObject, SimpleObject};
use entity::product;
use iso_currency::Currency;

use super::money::Money;
use crate::commands::master_data::Fault;
use crate::graphql::scalars::Decimal;
use crate::graphql::user_error::{UserError, UserErrorCode, fault_of};

/// Something that can be ordered.
#[derive(Clone, SimpleObject)]
pub struct Product {
    /// The product's id, for `OrderItemInput.productId`.
    pub id: ID,
    /// The product's name.
    name: String,
    /// The price of one piece now. An order keeps the price it was placed at.
    price: Money,
}

impl Product {
    pub fn new(row: product::Model, currency: Currency) -> Product {
        Product { id: row.id.into(), name: row.name, price: Money::new(row.price, currency) }
    }
}

/// A page of products.
#[derive(SimpleObject)]
pub struct ProductConnection {
    /// The products of this page, each with its cursor.
    pub edges: Vec<ProductEdge>,
    /// The same products without cursors.
    pub nodes: Vec<Product>,
    /// Whether there is more, and where it continues.
    pub page_info: PageInfo,
}

/// A product and where it stands in the list.
#[derive(SimpleObject)]
pub struct ProductEdge {
    /// The product.
    pub node: Product,
    /// Continue after this product with `products(after:)`.
    pub cursor: String,
}

/// A product to create.
#[derive(InputObject)]
pub struct CreateProductInput {
    /// What it is called: from 1 to 200 characters.
    pub name: String,
    /// The price of one piece, in whole currency units: "1500.00" is fifteen hundred dollars where the currency is USD.
    pub price: Decimal,
}

/// What a product costs from now on.
#[derive(InputObject)]
pub struct ChangePriceInput {
    /// The product.
    pub product_id: ID,
    /// The price of one piece, in whole currency units.
    pub price: Decimal,
}

/// What became of a product that was to be created or changed: either `product` is there, or `userErrors` says why not.
#[derive(SimpleObject)]
pub struct ProductPayload {
    /// The product from now on.
    pub product: Option<Product>,
    /// Everything that is wrong; empty when it was done.
    pub user_errors: Vec<UserError>,
}

impl ProductPayload {
    pub fn new(changed: Result<product::Model, Vec<Fault>>, currency: Currency) -> ProductPayload {
        match changed {
            Ok(row) => ProductPayload { product: Some(Product::new(row, currency)), user_errors: Vec::new() },
            Err(faults) => {
                let not_found = (UserErrorCode::ProductNotFound, "There is no such product.", "productId");
                let user_errors = faults.into_iter().map(|fault| fault_of(fault, not_found)).collect();
                ProductPayload { product: None, user_errors }
            }
        }
    }
}
