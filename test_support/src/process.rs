//! Programs under test: where they are, how they are started and stopped, and what they print.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::until::PATIENCE;

/// A running process; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

/// The lines that a process has printed so far, on both streams.
#[derive(Default)]
pub struct Output {
    lines: Mutex<Vec<String>>,
    more: Condvar,
    ended_streams: AtomicUsize,
}

impl Output {
    /// Waits until the process has closed both streams, and returns all lines.
    pub fn all(&self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        while self.ended_streams.load(Ordering::SeqCst) < 2 {
            assert!(Instant::now() < deadline, "a stream does not end");
            lines = self.more.wait_timeout(lines, Duration::from_millis(10)).unwrap().0;
        }
        lines.clone()
    }
}

/// The path of a program: in the directory `PROGRAMS` (`scripts/test` sets it), or else where cargo puts programs.
pub fn program(name: &str) -> PathBuf {
    let path = match std::env::var_os("PROGRAMS") {
        Some(directory) => Path::new(&directory).join(name),
        None => std::env::current_exe().unwrap().parent().unwrap().with_file_name(name),
    };
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// The path of a file of the repository.
pub fn repository_file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A command of one of our programs, with only these variables in its environment, and with generous limits: the machine may
/// be slow, and all load comes from one caller.
pub fn command(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program(name));
    command.args(arguments).env_clear();
    // The SDK must not look for a cloud around this machine.
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("READ_WAIT", "60s").env("OPERATION_TIMEOUT", "70s");
    command.env("RATE_LIMIT", "0").env("MAX_LIVE_CONNECTIONS_PER_CALLER", "10000");
    command.envs(variables.iter().copied());
    command
}

impl Process {
    /// Starts one of our programs, see [`command`].
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

    /// Waits for a line that contains `prefix`, and returns what follows it.
    pub fn line_with(&mut self, prefix: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.output.lines.lock().unwrap();
        loop {
            if let Some((_, rest)) = lines.iter().find_map(|line| line.split_once(prefix)) {
                return rest.to_owned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self.child.try_wait().unwrap();
            assert!(
                !left.is_zero() && ended.is_none(),
                "{} did not print {prefix:?} ({ended:?}): {lines:#?}",
                self.name
            );
            lines = self.output.more.wait_timeout(lines, left.min(Duration::from_millis(100))).unwrap().0;
        }
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        // Also after an assertion failed while the lock was held: these lines explain it.
        self.output.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Outlives the process.
    pub fn output(&self) -> Arc<Output> {
        self.output.clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(self) -> ExitStatus {
        signal(self.child.id() as i32, "TERM");
        self.wait()
    }

    /// Waits until the process ends by itself.
    pub fn wait(self) -> ExitStatus {
        self.wait_for(PATIENCE)
    }

    /// Waits until the process ends by itself, for so long at most.
    pub fn wait_for(mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
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
            eprintln!("--- output of {}:\n{}", self.name, self.lines().join("\n"));
        }
    }
}

fn collect(stream: impl Read + Send + 'static, output: Arc<Output>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            output.lines.lock().unwrap().push(line);
            output.more.notify_all();
        }
        output.ended_streams.fetch_add(1, Ordering::SeqCst);
    });
}

/// Sends a signal such as `TERM`. A process that has ended already is ignored.
pub fn signal(process: i32, name: &str) {
    let _ = Command::new("sh").args(["-c", &format!("kill -s {name} {process}")]).status();
}

/// An address of this machine on which nobody listens.
pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The memory of a process in MiB, from Linux: `VmRSS` is the memory in use now, `VmHWM` the most so far.
pub fn memory_mebibytes(process: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}
