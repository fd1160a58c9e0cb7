//! Files that settings name.

use std::fs::File;
use std::io::{Error, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Reads a file, or a pipe until its end.
///
/// # Errors
/// When it is something else, is larger than this many bytes, or cannot be read.
pub fn read_file(path: &Path, max: usize) -> Result<Vec<u8>, Error> {
    let file = File::open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_fifo() {
        return Err(Error::other("it is neither a file nor a pipe"));
    }
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > max {
        true => Err(Error::other(format!("it is larger than {max} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_file_and_a_pipe_are_read_up_to_a_limit_and_a_device_is_not() {
        let refusal = |path: &Path, max| read_file(path, max).unwrap_err().to_string();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"secret").unwrap();
        assert_eq!(read_file(file.path(), 6).unwrap(), b"secret");
        assert_eq!(refusal(file.path(), 5), "it is larger than 5 bytes");
        // As `<(command)` in a shell.
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"secret").unwrap();
        drop(writer);
        assert_eq!(read_file(Path::new(&format!("/dev/fd/{}", reader.as_raw_fd())), 6).unwrap(), b"secret");
        for path in ["/dev/zero", "/"] {
            assert_eq!(refusal(Path::new(path), 6), "it is neither a file nor a pipe", "{path}");
        }
        assert!(refusal(Path::new("/nowhere"), 6).contains("No such file"));
    }
}
