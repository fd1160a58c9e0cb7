//! Looks for personal data of forgotten clients. Their orders and sums are compared like those of all clients.

use std::collections::BTreeSet;

use serde_json::Value;
use test_support::user::User;
use test_support::{dump, until};

use super::Chaos;
use super::clients::Clients;

impl Chaos {
    /// No row and no list has personal data of forgotten clients, and each was forgotten once.
    pub async fn check_forgotten(&self, clients: &Clients) {
        let seed = self.seed;
        let ids: Vec<String> = clients.forgotten.iter().map(ToString::to_string).collect();
        let ids = format!("ANY ('{{{}}}'::bigint[])", ids.join(","));
        for (wrong, from) in [
            (
                "rows",
                format!(
                    "clients WHERE (id = {ids}) <> (forgotten_at IS NOT NULL)
                     OR id = {ids} AND (name, email) <> ('Forgotten client', 'forgotten-' || id || '@invalid')"
                ),
            ),
            (
                "events",
                format!(
                    "order_events WHERE client_id = {ids} AND (payload->>'reason' IS NOT NULL
                     OR (payload->>'clientName', payload->>'clientEmail')
                        <> ('Forgotten client', 'forgotten-' || client_id || '@invalid'))"
                ),
            ),
            ("orders", format!("orders WHERE client_id = {ids} AND cancel_reason IS NOT NULL")),
            (
                "times",
                format!(
                    "(SELECT c.id FROM clients c LEFT JOIN order_events e
                          ON e.client_id = c.id AND type = 'clients.ClientForgotten.v1'
                      GROUP BY c.id HAVING count(e.id) <> CASE WHEN c.id = {ids} THEN 1 ELSE 0 END) AS wrong"
                ),
            ),
        ] {
            assert_eq!(self.count(&from).await, 0, "SEED={seed}: {wrong} of forgotten clients");
        }
        let rows = dump::postgres(&self.db).await;
        let [erased, others] = clients.found_in(&rows);
        assert_eq!(erased, [""; 0], "SEED={seed}: rows have personal data of forgotten clients");
        assert!(!others.is_empty(), "those of others are found");
        self.check_lists_forgot(clients).await;
    }

    /// Whether all keys of Redis are without personal data, after a rebuild. The generation of a rebuild that was killed is only
    /// repaired when the next one continues it, so before that it may have what a Redis lost that was demoted.
    pub async fn check_redis_forgot(&self, clients: &Clients) {
        let keys = dump::redis(&self.stores.redis_client()).await;
        let ([erased, others], seed) = (clients.found_in(&keys), self.seed);
        assert_eq!(erased, [""; 0], "SEED={seed}: Redis has personal data of forgotten clients");
        assert!(!others.is_empty(), "those of others are found");
    }

    /// An api may have a client in its cache for a moment.
    async fn check_lists_forgot(&self, clients: &Clients) {
        for api in &self.apis {
            until("the api is ready", async || {
                let ready = reqwest::get(format!("http://{api}/health/ready")).await;
                ready.is_ok_and(|response| response.status().is_success())
            })
            .await;
            let user = User::new(api, &self.token);
            until("a list of clients has no personal data of forgotten ones", async || {
                let (listed, ids) = list(&user).await;
                !ids.is_empty() && clients.forgotten.is_subset(&ids) && clients.found_in(&listed)[0].is_empty()
            })
            .await;
        }
    }
}

/// The list of all clients as text, and their ids; nothing while it cannot be read.
async fn list(user: &User) -> (String, BTreeSet<i64>) {
    let (mut listed, mut ids, mut after) = (String::new(), BTreeSet::new(), Value::Null);
    loop {
        let query = format!(
            "{{ clients(first: 100, after: {after}) {{ nodes {{ id name email }} pageInfo {{ hasNextPage endCursor }} }} }}"
        );
        let response = user.graphql(&query).await;
        let page = &response["data"]["clients"];
        let Some(nodes) = page["nodes"].as_array() else { return Default::default() };
        ids.extend(nodes.iter().map(|client| client["id"].as_str().unwrap().parse::<i64>().unwrap()));
        listed += &page["nodes"].to_string();
        if page["pageInfo"]["hasNextPage"] == false {
            return (listed, ids);
        }
        after = page["pageInfo"]["endCursor"].clone();
    }
}
