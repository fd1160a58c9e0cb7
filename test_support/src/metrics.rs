//! The metrics of a process, as Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};

pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Default)]
pub struct Metric {
    pub help: String,
    /// Such as `counter`.
    pub kind: String,
    /// The labels of each series, without the limits of buckets.
    pub series: BTreeSet<Labels>,
}

/// Reads the metrics at an address, by their names.
pub async fn scrape(address: &str) -> BTreeMap<String, Metric> {
    let response = reqwest::get(format!("http://{address}/metrics")).await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    parse(&response.text().await.unwrap())
}

fn parse(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics = BTreeMap::<String, Metric>::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some((of, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            name = of.to_owned();
            metrics.entry(name.clone()).or_default().help = help.to_owned();
        } else if let Some((of, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            name = of.to_owned();
            metrics.entry(name.clone()).or_default().kind = kind.to_owned();
        } else {
            let labels = line.split_once('{').and_then(|(_, rest)| Some(rest.rsplit_once('}')?.0)).unwrap_or_default();
            metrics.get_mut(&name).unwrap().series.insert(parse_labels(labels));
        }
    }
    metrics
}

/// The values of our labels contain neither commas nor quotation marks.
fn parse_labels(text: &str) -> Labels {
    let labels = text.split(',').filter_map(|label| label.split_once('='));
    let labels = labels.filter(|(name, _)| *name != "le");
    labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}
