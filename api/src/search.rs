//! Finds clients in PostgreSQL: by their e-mail address, or by the beginning of their name or address. A client is found as soon as
//! it is registered.

use entity::client;
use sea_orm::{
    ColumnTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter, Statement, Value,
};

/// Addresses that one statement reads.
const ADDRESSES: usize = 100;
/// Statements for the addresses of one page.
const MAX_STATEMENTS: usize = 10;
/// Sorts after every character that a name or an address has.
const LAST: &str = "\u{10ffff}";

/// A position in the list of found clients. First are those whose name begins with the text, by name and id. Those of whom only the
/// address does follow, by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    Name(String, i64),
    Address(String),
}

/// A page of found clients.
#[derive(Debug, Default)]
pub struct Found {
    pub clients: Vec<(Position, client::Model)>,
    /// After which position the next page begins; `None` if this is the last one. A page may have fewer clients than it could: then
    /// its reads ended before it was full.
    pub next: Option<Position>,
}

/// The client with an address in lower case.
///
/// # Errors
/// When the database fails.
pub async fn by_email(db: &DatabaseConnection, email: &str) -> Result<Option<client::Model>, DbErr> {
    client::Entity::find().filter(client::Column::Email.eq(email)).one(db).await
}

/// Reads a page of the clients whose name or address begins with a text, whatever its case. Each statement is a range of an index. The
/// database says which letters differ only by their case: all of its locale on PostgreSQL, those of ASCII on SQLite.
///
/// # Errors
/// When the database fails.
pub async fn page(db: &DatabaseConnection, text: &str, after: Option<Position>, first: usize) -> Result<Found, DbErr> {
    let mut clients = Vec::new();
    let address = match after {
        Some(Position::Address(address)) => address,
        Some(Position::Name(name, id)) => {
            clients = by_name(db, text, &name, id, first + 1).await?;
            String::new()
        }
        None => {
            clients = by_name(db, text, "", 0, first + 1).await?;
            String::new()
        }
    };
    let unread = if clients.len() > first { None } else { by_address(db, text, address, first, &mut clients).await? };
    if clients.len() <= first {
        return Ok(Found { clients, next: unread });
    }
    clients.truncate(first);
    let next = clients.last().map(|(position, _)| position.clone());
    Ok(Found { clients, next })
}

/// The name and the address of a row as the indexes of a search have them, and the larger of two texts.
fn texts(db: &DatabaseConnection) -> (&'static str, &'static str, &'static str) {
    match db.get_database_backend() {
        DbBackend::Postgres => (r#"lower(name) COLLATE "C""#, r#"email COLLATE "C""#, "greatest"),
        _ => ("lower(name)", "email", "max"),
    }
}

/// The clients whose name begins with a text, after a position.
async fn by_name(
    db: &DatabaseConnection,
    text: &str,
    name: &str,
    id: i64,
    limit: usize,
) -> Result<Vec<(Position, client::Model)>, DbErr> {
    let (of_row, _, greatest) = texts(db);
    // One lower bound: with two, PostgreSQL might begin at the wrong one.
    let sql = format!(
        "SELECT * FROM clients
         WHERE ({of_row}, id) > ({greatest}(lower($1), lower($2)), $3) AND {of_row} < lower($1) || $4
         ORDER BY {of_row}, id LIMIT $5"
    );
    let values: [Value; 5] = [text.into(), name.into(), id.into(), LAST.into(), (limit as i64).into()];
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    let rows = client::Entity::find().from_raw_sql(statement).all(db).await?;
    Ok(rows.into_iter().map(|row| (Position::Name(row.name.clone(), row.id), row)).collect())
}

/// A client whose address begins with a text.
#[derive(FromQueryResult)]
struct WithAddress {
    #[sea_orm(nested)]
    client: client::Model,
    /// Whether its name does, too. Then it is in the list already.
    has_name: bool,
}

/// Adds the clients of whom only the address begins with a text until there is one more than a page has. Returns where the next page
/// continues if there may be more of them than it has read: clients that are found by their names are in between.
async fn by_address(
    db: &DatabaseConnection,
    text: &str,
    mut after: String,
    first: usize,
    clients: &mut Vec<(Position, client::Model)>,
) -> Result<Option<Position>, DbErr> {
    let (name, email, greatest) = texts(db);
    let sql = format!(
        "SELECT *, {name} >= lower($1) AND {name} < lower($1) || $3 AS has_name FROM clients
         WHERE {email} >= {greatest}(lower($1), $2) AND {email} < lower($1) || $3 AND email <> $2
         ORDER BY {email} LIMIT $4"
    );
    for _ in 0..MAX_STATEMENTS {
        let values: [Value; 4] = [text.into(), after.as_str().into(), LAST.into(), (ADDRESSES as i64).into()];
        let statement = Statement::from_sql_and_values(db.get_database_backend(), &sql, values);
        let rows = WithAddress::find_by_statement(statement).all(db).await?;
        let is_end = rows.len() < ADDRESSES;
        if let Some(row) = rows.last() {
            after.clone_from(&row.client.email);
        }
        let found = rows.into_iter().filter(|row| !row.has_name);
        clients.extend(found.map(|row| (Position::Address(row.client.email.clone()), row.client)));
        if is_end || clients.len() > first {
            return Ok(None);
        }
    }
    Ok(Some(Position::Address(after)))
}
