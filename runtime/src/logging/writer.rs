//! Writes the lines of the log in a thread of its own, so that no request waits for standard error, and lines that come together share
//! a system call. While more lines come than standard error takes, lines are dropped and counted, warnings and errors last.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata, warn};
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that may wait.
const CAPACITY: usize = 4 * 1024 * 1024;
/// The part of them that only warnings and errors may use.
const RESERVED: usize = CAPACITY / 4;
/// How long lines are collected after others were written. The first line after a pause is written at once.
const LINGER: Duration = Duration::from_millis(20);
/// Limit for [`LogWriter::flush`], because standard error may take nothing any more.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// A larger buffer is given back to the allocator after a burst, in bytes.
const USUAL_SIZE: usize = 64 * 1024;

#[derive(Clone, Default)]
pub struct LogWriter(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Wakes the thread.
    wake: Condvar,
    /// Notified when lines were written.
    written: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Lines that found no room or could not be written.
    dropped: u64,
    /// Bytes of the lines that have found room so far.
    accepted: u64,
    /// Those of them that the thread has written, or lost.
    written: u64,
    /// Whether the thread sleeps until there is a line.
    is_idle: bool,
    /// Callers of [`LogWriter::flush`] that wait.
    flushing: usize,
}

impl LogWriter {
    /// Starts the thread, which runs until the process ends.
    pub fn start(output: impl Write + Send + 'static) -> io::Result<LogWriter> {
        let writer = LogWriter::default();
        let thread = writer.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || thread.run(output))?;
        Ok(writer)
    }

    /// Waits until the lines so far are written.
    pub fn flush(&self) {
        let mut waiting = self.lock();
        waiting.flushing += 1;
        self.0.wake.notify_one();
        let accepted = waiting.accepted;
        let is_unwritten = |waiting: &mut Waiting| waiting.written < accepted;
        let written = self.0.written.wait_timeout_while(waiting, FLUSH_TIMEOUT, is_unwritten);
        written.unwrap_or_else(PoisonError::into_inner).0.flushing -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8], capacity: usize) {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() > capacity {
            waiting.dropped += 1;
            return;
        }
        waiting.accepted += line.len() as u64;
        waiting.lines.extend_from_slice(line);
        if std::mem::take(&mut waiting.is_idle) {
            self.0.wake.notify_one();
        }
    }

    fn run(self, mut output: impl Write) {
        let mut lines = Vec::new();
        loop {
            self.take(&mut lines);
            let lost = write(&mut output, &lines);
            let dropped = self.count_lost(lost);
            if dropped > 0 {
                // There is room for this line now. It is written with the next ones.
                warn!(dropped, "lines of the log were dropped, because standard error did not take them");
            }
            let written = lines.len();
            lines.clear();
            lines.shrink_to(USUAL_SIZE);
            self.linger(written);
        }
    }

    /// Counts lines that could not be written. Returns how many are dropped so far, once others can be written again.
    fn count_lost(&self, lost: u64) -> u64 {
        let mut waiting = self.lock();
        waiting.dropped += lost;
        if lost == 0 { std::mem::take(&mut waiting.dropped) } else { 0 }
    }

    /// Waits for lines and takes them.
    fn take(&self, lines: &mut Vec<u8>) {
        let mut waiting = self.lock();
        while waiting.lines.is_empty() {
            waiting.is_idle = true;
            waiting = self.0.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_idle = false;
        std::mem::swap(lines, &mut waiting.lines);
    }

    /// Ends the writing of so many bytes, and collects further lines unless somebody waits for them.
    fn linger(&self, written: usize) {
        let mut waiting = self.lock();
        waiting.written += written as u64;
        self.0.written.notify_all();
        let _ = self.0.wake.wait_timeout_while(waiting, LINGER, |waiting| waiting.flushing == 0);
    }
}

/// Writes lines. Returns how many could not be written, for example because a disk is full.
fn write(output: &mut impl Write, mut lines: &[u8]) -> u64 {
    while !lines.is_empty() {
        match output.write(lines) {
            Ok(written) if written > 0 => lines = &lines[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    let _ = output.flush();
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// A writer of one line.
pub struct Line<'a> {
    writer: &'a LogWriter,
    /// How full the buffer may be with this line.
    capacity: usize,
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { writer: self, capacity: CAPACITY - RESERVED }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        match *metadata.level() {
            Level::ERROR | Level::WARN => Line { writer: self, capacity: CAPACITY },
            _ => self.make_writer(),
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.writer.push(line, self.capacity);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes nothing until the test lets it.
    struct Output {
        written: Arc<Mutex<Vec<u8>>>,
        gate: mpsc::Receiver<()>,
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.gate.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (LogWriter, Arc<Mutex<Vec<u8>>>, mpsc::Sender<()>) {
        let (open, gate) = mpsc::channel();
        let written = Arc::default();
        let writer = LogWriter::start(Output { written: Arc::clone(&written), gate }).unwrap();
        (writer, written, open)
    }

    #[test]
    fn a_flush_waits_until_all_lines_are_written() {
        let (writer, written, open) = start();
        drop(open);
        for n in 0..1_000 {
            writer.make_writer().write_all(format!("line {n}\n").as_bytes()).unwrap();
            if n % 100 == 0 {
                writer.flush();
                assert!(written.lock().unwrap().ends_with(format!("line {n}\n").as_bytes()));
            }
        }
        writer.flush();
        let lines = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert!(lines.lines().enumerate().all(|(n, line)| line == format!("line {n}")), "{lines}");
        assert_eq!(lines.lines().count(), 1_000);
    }

    #[test]
    fn a_flush_does_not_wait_for_later_lines() {
        let (writer, written, open) = start();
        writer.push(b"first\n", CAPACITY);
        let flushing = std::thread::spawn({
            let writer = writer.clone();
            move || writer.flush()
        });
        while writer.lock().flushing == 0 || !writer.lock().lines.is_empty() {
            std::thread::yield_now();
        }
        writer.push(b"later\n", CAPACITY);
        open.send(()).unwrap(); // for the first line only
        flushing.join().unwrap();
        assert_eq!(*written.lock().unwrap(), b"first\n");
    }

    #[test]
    fn a_full_buffer_drops_lines_without_waiting_and_warnings_last() {
        let (writer, written, open) = start();
        let line = [b'x'; 1024];
        writer.push(&line, CAPACITY);
        while !writer.lock().lines.is_empty() {
            std::thread::yield_now();
        }
        let push = |capacity| (0..2 * CAPACITY / line.len()).for_each(|_| writer.push(&line, capacity));
        push(CAPACITY - RESERVED);
        let waiting = writer.lock().lines.len();
        assert!((CAPACITY - RESERVED - line.len()..=CAPACITY - RESERVED).contains(&waiting), "{waiting}");
        writer.push(&line, CAPACITY);
        assert_eq!(writer.lock().lines.len(), waiting + line.len(), "a warning has room");
        push(CAPACITY);
        let dropped = writer.lock().dropped;
        assert!(writer.lock().lines.len() <= CAPACITY && dropped > 0);
        drop(open);
        writer.flush();
        let accepted = 4 * CAPACITY / line.len() + 2 - dropped as usize;
        assert_eq!(written.lock().unwrap().len(), accepted * line.len());
        assert_eq!(writer.lock().dropped, 0, "the thread has reported them");
    }

    /// Takes a part of its first lines, then fails once, and then works.
    struct Flaky {
        calls: usize,
    }

    impl Write for Flaky {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            match self.calls {
                1 => Ok(3),
                2 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(bytes.len()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_reported_when_others_can() {
        let (writer, mut output) = (LogWriter::default(), Flaky { calls: 0 });
        assert_eq!(write(&mut output, b"a\nb\nc\n"), 2, "the second line is incomplete");
        assert_eq!((writer.count_lost(2), writer.lock().dropped), (0, 2), "a report could not be written either");
        assert_eq!(write(&mut output, b"d\n"), 0);
        assert_eq!((writer.count_lost(0), writer.lock().dropped), (2, 0));
    }

    #[test]
    fn a_flush_does_not_wait_for_ever() {
        let (writer, _, _open) = start();
        writer.push(b"a line", CAPACITY);
        writer.flush();
        assert_eq!(writer.lock().flushing, 0);
    }
}
