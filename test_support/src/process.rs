//! Programs under test: where they are, how they are started and stopped, and what they print.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::until::PATIENCE;

/// The programs are where `scripts/test` had them built, or else where cargo puts them: above its tests.
pub fn binary(name: &str) -> PathBuf {
    let path = match std::env::var_os("PROGRAMS") {
        Some(directory) => Path::new(&directory).join(name),
        None => std::env::current_exe().unwrap().parent().unwrap().with_file_name(name),
    };
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// A file of the repository.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A command with nothing but these variables in its environment.
pub fn command(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary(name));
    command.args(arguments).env_clear();
    // No question to a cloud around the machine; the machine may be slow, and the load large.
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("READ_WAIT", "60s").env("OPERATION_TIMEOUT", "70s");
    command.env("RATE_LIMIT", "0").env("MAX_LIVE_CONNECTIONS_PER_CALLER", "10000");
    command.envs(variables.iter().copied());
    command
}

/// A running process; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// What a process has said so far, on both streams.
#[derive(Default)]
pub struct Output {
    lines: Mutex<Vec<String>>,
    more: Condvar,
    ended: AtomicUsize,
}

impl Output {
    /// Everything, once both streams have ended.
    pub fn all(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        while self.ended.load(Ordering::SeqCst) < 2 {
            assert!(Instant::now() < deadline, "a stream does not end");
            lines = self.more.wait_timeout(lines, Duration::from_millis(10)).unwrap().0;
        }
        lines.clone()
    }
}

impl Process {
    pub fn start(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Process {
        Process::spawn(name, command(name, arguments, variables))
    }

    pub fn spawn(name: &str, mut command: Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = Arc::new(Output::default());
        collect(child.stdout.take().unwrap(), output.clone());
        collect(child.stderr.take().unwrap(), output.clone());
        Process { name: name.into(), child, output }
    }

    /// What follows `prefix` in the first line that has it.
    pub fn line_with(&mut self, prefix: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.output.lines.lock().unwrap();
        loop {
            if let Some((_, rest)) = lines.iter().find_map(|line| line.split_once(prefix)) {
                return rest.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self.child.try_wait().unwrap();
            assert!(!left.is_zero() && ended.is_none(), "{} did not say {prefix:?} ({ended:?}): {lines:#?}", self.name);
            lines = self.output.more.wait_timeout(lines, left.min(Duration::from_millis(100))).unwrap().0;
        }
    }

    pub fn lines(&self) -> Vec<String> {
        // Also when an assertion failed while it was held: this is what tells why.
        self.output.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn output(&self) -> Arc<Output> {
        self.output.clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGTERM, and how it ended.
    pub fn terminate(self) -> ExitStatus {
        let kill = format!("kill {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        self.end()
    }

    /// How it ends by itself.
    pub fn end(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not stop", self.name);
            #[expect(clippy::disallowed_methods, reason = "called outside the runtime")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, self.lines().join("\n"));
        }
    }
}

fn collect(stream: impl Read + Send + 'static, output: Arc<Output>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            output.lines.lock().unwrap().push(line);
            output.more.notify_all();
        }
        output.ended.fetch_add(1, Ordering::SeqCst);
    });
}

/// What Linux tells of a process's memory, such as `VmRSS`, what it has now, and `VmHWM`, the most that it had.
pub fn mebibytes(process: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Where nobody listens yet.
pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
