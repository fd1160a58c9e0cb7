//! GraphiQL is built into the program from `web/dist`, where that is there, and anew when it has changed.

fn main() {
    let directory = "../web/dist/graphiql";
    // What does not exist would count as changed each time.
    let _ = std::fs::create_dir_all(directory);
    println!("cargo::rerun-if-changed={directory}");
}
