//! Finds clients in PostgreSQL: by their e-mail address, or by the beginning of their name or address. A client is found as soon as
//! it is registered.

use entity::client;
use sea_orm::{
    ColumnTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, FromQueryResult, QueryFilter, Statement, Value,
};

/// Addresses that one page reads.
const MAX_ADDRESSES: i64 = 1_000;
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
    pub has_previous_page: bool,
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
    // The first client of the list shows whether there is a previous page.
    let first_of_all = if after.is_some() { read(db, text, None, 1).await?.clients } else { Vec::new() };
    let page = read(db, text, after, first).await?;
    let id = |clients: &[(Position, client::Model)]| clients.first().map(|(_, client)| client.id);
    let has_previous_page = !first_of_all.is_empty() && id(&first_of_all) != id(&page.clients);
    Ok(Found { has_previous_page, ..page })
}

async fn read(db: &DatabaseConnection, text: &str, after: Option<Position>, first: usize) -> Result<Found, DbErr> {
    let (mut clients, address) = match after {
        Some(Position::Address(address)) => (Vec::new(), address),
        Some(Position::Name(name, id)) => (by_name(db, text, &name, id, first + 1).await?, String::new()),
        None => (by_name(db, text, "", 0, first + 1).await?, String::new()),
    };
    let mut unread = None;
    if clients.len() <= first {
        let (more, end) = by_address(db, text, &address, first + 1 - clients.len()).await?;
        clients.extend(more);
        unread = end;
    }
    if clients.len() <= first {
        return Ok(Found { clients, next: unread, ..Found::default() });
    }
    clients.truncate(first);
    let next = clients.last().map(|(position, _)| position.clone());
    Ok(Found { clients, next, ..Found::default() })
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
    /// Counts the addresses from 1.
    number: i64,
}

/// The next clients of whom only the address begins with a text. Those that are found by their names are in between, so it reads at
/// most [`MAX_ADDRESSES`], and returns the last one if there may be more.
async fn by_address(
    db: &DatabaseConnection,
    text: &str,
    after: &str,
    limit: usize,
) -> Result<(Vec<(Position, client::Model)>, Option<Position>), DbErr> {
    let (name, email, greatest) = texts(db);
    // The database reads no more addresses than it needs: both parts have the sequence of the index.
    let sql = format!(
        "SELECT * FROM (
             SELECT *, {name} >= lower($1) AND {name} < lower($1) || $3 AS has_name, {email} AS address,
                    row_number() OVER (ORDER BY {email}) AS number
             FROM clients
             WHERE {email} >= {greatest}(lower($1), $2) AND {email} < lower($1) || $3 AND email <> $2
             ORDER BY {email} LIMIT $4
         ) AS found WHERE NOT has_name OR number = $4 ORDER BY address LIMIT $5"
    );
    let values: [Value; 5] = [text.into(), after.into(), LAST.into(), MAX_ADDRESSES.into(), (limit as i64).into()];
    let statement = Statement::from_sql_and_values(db.get_database_backend(), sql, values);
    let rows = WithAddress::find_by_statement(statement).all(db).await?;
    let position = |row: &WithAddress| Position::Address(row.client.email.clone());
    let end = rows.last().filter(|row| row.number == MAX_ADDRESSES).map(position);
    let found = rows.into_iter().filter(|row| !row.has_name);
    Ok((found.map(|row| (position(&row), row.client)).collect(), end))
}
