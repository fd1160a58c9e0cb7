//! Embeds GraphiQL from `web/dist` into the program if it has been built, and rebuilds the program when it changes.

fn main() {
    let directory = "../web/dist/graphiql";
    // Cargo treats a missing directory as changed in every build.
    let _ = std::fs::create_dir_all(directory);
    println!("cargo::rerun-if-changed={directory}");
}
