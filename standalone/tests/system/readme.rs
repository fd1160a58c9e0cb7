//! What the README says of settings is what the programs take.

use std::collections::BTreeSet;

use test_support::process::command;

#[test]
fn every_setting_is_in_the_readme_and_only_those() {
    let mut settings = BTreeSet::new();
    for (name, arguments) in [
        ("api", vec!["--help"]),
        ("projector", vec!["--help"]),
        ("projector", vec!["replay", "--help"]),
        ("projector", vec!["verify", "--help"]),
        ("projector", vec!["dead-letters", "list", "--help"]),
        ("migration", vec!["--help"]),
        ("standalone", vec!["--help"]),
        ("standalone", vec!["queue", "--help"]),
    ] {
        let help = command(name, &arguments, &[]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        settings.extend(help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap().to_owned()));
    }
    assert!(settings.contains("DATABASE_URL"), "{settings:?}");

    let readme = include_str!("../../../README.md");
    let (_, rest) = readme.split_once("\n## Settings\n").unwrap();
    let (tables, _) = rest.split_once("\n## ").unwrap();
    let rows = tables.lines().filter(|line| line.starts_with("| `"));
    let first_cells = rows.map(|line| line.split('|').nth(1).unwrap());
    let told: BTreeSet<String> = first_cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| !name.starts_with("AWS_") && *name != "RUST_LOG") // read by libraries
        .map(Into::into)
        .collect();
    assert_eq!(told, settings);
}
