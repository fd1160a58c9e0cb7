//! Certificates of a private authority, made by openssl.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// An authority, and a certificate that it has signed for one server.
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// For a server with this name, such as `DNS:localhost` or `IP:127.0.0.1`.
    pub fn of(name: &str) -> Certificates {
        let certificates = Certificates { directory: tempfile::tempdir().unwrap() };
        let configuration = format!(
            "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = test\n\
             [authority]\nbasicConstraints = critical, CA:TRUE\n\
             [server]\nbasicConstraints = critical, CA:FALSE\nsubjectAltName = {name}\n"
        );
        std::fs::write(certificates.file("openssl.cnf"), configuration).unwrap();
        certificates.create("authority", &[]);
        certificates.create("server", &["-CA", "authority.crt", "-CAkey", "authority.key"]);
        certificates
    }

    fn create(&self, subject: &str, signed_by: &[&str]) {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(&self.directory).args(["req", "-x509", "-config", "openssl.cnf", "-days", "2", "-nodes"]);
        openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-extensions", subject]);
        openssl.args(["-keyout", &format!("{subject}.key"), "-out", &format!("{subject}.crt")]).args(signed_by);
        let output = openssl.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> PathBuf {
        self.file("authority.crt")
    }

    /// The certificate of the server.
    pub fn server(&self) -> PathBuf {
        self.file("server.crt")
    }

    /// The key of the server.
    pub fn key(&self) -> PathBuf {
        self.file("server.key")
    }

    /// Gives the files to the user as which root starts PostgreSQL: it accepts only a key of its own.
    pub(crate) fn give_to_postgres(&self) {
        // Only root can and need do this.
        let _ = Command::new("chown").args(["-R", "postgres"]).arg(self.directory.path()).output();
    }
}
