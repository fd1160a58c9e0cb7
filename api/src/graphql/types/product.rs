use async_graphql::{ID, InputObject, SimpleObject};
use entity::product;
use iso_currency::Currency;

use super::money::Money;
use super::page::{CURSOR_BYTES, PageInfo};
use crate::graphql::cost_directives::max_size;
use crate::graphql::scalars::Decimal;
use crate::graphql::user_error::UserError;
use crate::queries::catalogue::ProductPage;

/// A product of the catalogue.
#[derive(Clone, SimpleObject)]
pub struct Product {
    /// The id of the product.
    id: ID,
    /// The name of the product.
    name: String,
    /// The current price of one unit. Orders keep the price at which they were placed.
    price: Money,
}

impl Product {
    pub fn new(product: read_model::Product, currency: Currency) -> Product {
        Product { id: product.id.into(), name: product.name, price: Money::new(product.price, currency) }
    }

    pub fn of_row(row: product::Model, currency: Currency) -> Product {
        Product { id: row.id.into(), name: row.name, price: Money::new(row.price, currency) }
    }
}

/// A page of products.
#[derive(SimpleObject)]
pub struct ProductConnection {
    /// The products of the page, each with its cursor.
    edges: Vec<ProductEdge>,
    /// The products of the page.
    nodes: Vec<Product>,
    /// The position of the page in the list.
    page_info: PageInfo,
}

impl ProductConnection {
    /// `has_previous_page`: whether the page has been requested with a cursor.
    pub fn new(page: ProductPage, has_previous_page: bool, currency: Currency) -> ProductConnection {
        let nodes: Vec<Product> = page.products.into_iter().map(|product| Product::new(product, currency)).collect();
        let edge = |node: &Product| ProductEdge { node: node.clone(), cursor: node.id.to_string() };
        let edges: Vec<ProductEdge> = nodes.iter().map(edge).collect();
        let cursor = |edge: &ProductEdge| edge.cursor.clone();
        let page_info = PageInfo {
            has_previous_page,
            has_next_page: page.has_next_page,
            start_cursor: edges.first().map(cursor),
            end_cursor: edges.last().map(cursor),
        };
        ProductConnection { edges, nodes, page_info }
    }
}

/// A product and its cursor.
#[derive(SimpleObject)]
pub struct ProductEdge {
    /// The product.
    node: Product,
    /// The cursor for `products(after:)`.
    #[graphql(directive = max_size::apply(Some(CURSOR_BYTES), None))]
    cursor: String,
}

/// A product to create.
#[derive(InputObject)]
pub struct CreateProductInput {
    /// The name: from 1 to 200 characters, of which none is a control character or invisible. Space around it is removed.
    pub name: String,
    /// The price of one unit, in units of the currency: "1500.00" is fifteen hundred dollars if the currency is USD.
    pub price: Decimal,
}

/// A new price of a product.
#[derive(InputObject)]
pub struct ChangePriceInput {
    /// The id of the product.
    pub product_id: ID,
    /// The price of one unit, in units of the currency.
    pub price: Decimal,
}

/// The result of creating a product or changing its price.
#[derive(SimpleObject)]
pub struct ProductPayload {
    /// The product after the change. Null if `userErrors` is not empty.
    pub product: Option<Product>,
    /// All problems that the user can fix. Empty if the change was made.
    pub user_errors: Vec<UserError>,
}
