//! PgBouncer, a pooler of connections to PostgreSQL.

use std::process::Command;

use crate::process::{Process, free_address};

/// A PgBouncer, and the URL of the database behind it.
pub struct PgBouncer {
    pub url: String,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts one in front of a database, in this pool mode.
    pub fn start(database_url: &str, mode: &str) -> PgBouncer {
        let (login, server) = database_url.trim_start_matches("postgresql://").split_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (server_address, name) = server.split_once('/').unwrap();
        let (host, server_port) = server_address.split_once(':').unwrap();
        let address = free_address();
        let port = address.rsplit_once(':').unwrap().1;
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("pgbouncer.ini");
        std::fs::write(
            &configuration,
            format!(
                "[databases]\n{name} = host={host} port={server_port} user={user} password={password}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = any\npool_mode = {mode}\ndefault_pool_size = 10\n"
            ),
        )
        .unwrap();
        // It refuses to run as root.
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "pgbouncer"]).arg(&configuration);
        let readable = Command::new("chown").args(["-R", "postgres"]).arg(directory.path()).status();
        if !readable.unwrap().success() {
            command = Command::new("pgbouncer");
            command.arg(&configuration);
        }
        let mut process = Process::spawn("pgbouncer", command);
        process.line_with("process up");
        PgBouncer { url: format!("postgres://any@{address}/{name}"), _process: process, _directory: directory }
    }
}
