use async_graphql::{ComplexObject, Context, ID, InputObject, SimpleObject};
use entity::event::MAX_SKU;
use entity::product;
use iso_currency::Currency;

use super::history::{EVENTS, HistoryConnection, product_history};
use super::money::Money;
use super::page::{CURSOR_BYTES, PageInfo};
use super::sales::ProductSales;
use crate::graphql::cost_directives::{cost, list_size, max_size, names, range_cost};
use crate::graphql::error::Error;
use crate::graphql::query::{MAX_DAYS, sales};
use crate::graphql::scalars::{Date, Decimal};
use crate::graphql::user_error::UserError;
use crate::queries::catalogue::ProductPage;

/// A product of the catalogue.
#[derive(Clone, SimpleObject)]
#[graphql(complex)]
pub struct Product {
    /// The id of the product.
    pub id: ID,
    /// The name of the product.
    name: String,
    /// The current price of one unit. Orders keep the price at which they were placed.
    price: Money,
    /// Whether it can be ordered. A withdrawn product stays in reports and orders.
    available: bool,
    /// The SKU. Null if it has none.
    #[graphql(directive = max_size::apply(Some(SKU_BYTES), None))]
    sku: Option<String>,
}

/// The longest SKU, with its quotation marks. Each character may be a quotation mark, which is escaped.
const SKU_BYTES: i32 = 2 * MAX_SKU as i32 + 2;

impl Product {
    pub fn new(product: read_model::Product, currency: Currency) -> Product {
        let read_model::Product { id, name, price, available, sku, version: _ } = product;
        Product { id: id.into(), name, price: Money::new(price, currency), available, sku }
    }

    pub fn of_row(row: product::Model, currency: Currency) -> Product {
        let product::Model { id, name, price, available, sku, version: _ } = row;
        Product { id: id.into(), name, price: Money::new(price, currency), available, sku }
    }
}

#[ComplexObject]
impl Product {
    /// What has happened to the product, newest first, a page at a time. Requires the scope `products:read`.
    #[graphql(
        directive = cost::apply("10".into()),
        directive = list_size::apply(None, names(&["first"]), names(&["edges", "nodes"]), Some(false))
    )]
    async fn history(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The size of the page, from 1 to 100.", default_with = "Some(EVENTS)")] first: Option<i32>,
        #[graphql(desc = "Continue after this cursor: `pageInfo.endCursor` of the previous page.")] after: Option<
            String,
        >,
    ) -> Option<Result<HistoryConnection, Error>> {
        Some(product_history(ctx, &self.id, first, after).await)
    }

    /// The sales of the product in a range of days in UTC, as `topProducts` has them, and zero if there are none. Requires the scope
    /// `sales:read`, not with a token for one client: without it, only this field is null, with an error.
    #[graphql(
        directive = cost::apply("2".into()),
        directive = range_cost::apply("from".into(), "to".into(), None, Some(1), Some(MAX_DAYS), None, None)
    )]
    async fn sales(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The first day, from midnight UTC.")] from: Date,
        #[graphql(desc = "The last day in UTC, which is included. At most ten years after the first day.")] to: Date,
    ) -> Option<Result<ProductSales, Error>> {
        Some(sales::of_product(ctx, self, (from, to)).await)
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
    pub fn new(page: ProductPage, currency: Currency) -> ProductConnection {
        let ProductPage { products, has_previous_page, has_next_page } = page;
        let nodes: Vec<Product> = products.into_iter().map(|product| Product::new(product, currency)).collect();
        let edge = |node: &Product| ProductEdge { node: node.clone(), cursor: node.id.to_string() };
        let edges: Vec<ProductEdge> = nodes.iter().map(edge).collect();
        let cursor = |edge: &ProductEdge| edge.cursor.clone();
        let page_info = PageInfo {
            has_previous_page,
            has_next_page,
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
    /// A number or code of your choice for the product: from 1 to 64 letters, digits and punctuation of ASCII. No other product
    /// may have it, also not in another case. So a repeated request creates no second product.
    pub sku: Option<String>,
    /// Whether it can be ordered. True if it is left out.
    pub available: Option<bool>,
    /// A random key for this product, such as a UUID, so that nobody can guess it: from 1 to 255 characters. A repeated request of
    /// the same caller (the subject of the token) with the same key and the same product returns the product that was created first.
    pub idempotency_key: Option<String>,
}

/// Changes of a product. Fields that are left out or null keep their value.
#[derive(InputObject)]
pub struct UpdateProductInput {
    /// The id of the product.
    pub id: ID,
    /// The name: from 1 to 200 characters, of which none is a control character or invisible. Space around it is removed.
    pub name: Option<String>,
    /// The price of one unit, in units of the currency.
    pub price: Option<Decimal>,
    /// False withdraws the product: it cannot be ordered any more. True offers it again.
    pub available: Option<bool>,
    /// The SKU: from 1 to 64 letters, digits and punctuation of ASCII. It can be changed but not removed.
    pub sku: Option<String>,
    /// A random key for this change, such as a UUID, so that nobody can guess it: from 1 to 255 characters. A repeated request for
    /// the same product with the same key and the same changes changes nothing and returns the product after the first one.
    pub idempotency_key: Option<String>,
}

/// The result of creating or changing a product.
#[derive(SimpleObject)]
pub struct ProductPayload {
    /// The id of the product. Null if `userErrors` is not empty.
    pub product_id: Option<ID>,
    /// The product after the change. Null if `userErrors` is not empty. Requires the scope `products:read`. If only this field fails, the
    /// change was made all the same.
    pub product: Option<Result<Product, Error>>,
    /// Whether an earlier request with the same idempotency key had made the change. This request wrote nothing then.
    pub replayed: bool,
    /// All problems that the user can fix. Empty if the change was made.
    pub user_errors: Vec<UserError>,
}
