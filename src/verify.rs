//! [`VerifyReader`]: the only thing that a fetch returns. It never yields more than the declared size, and ends
//! without error only if size and digest hold (size first: OCI image-spec 1.1, "Verification").

use std::io::{self, Read};

use crate::{
    digest::{Digest, Hasher},
    error::{Error, Result},
    model::Descriptor,
};

/// A blob's bytes, counted and hashed as they pass.
pub struct VerifyReader<R> {
    inner: R,
    digest: Digest,
    size: u64,
    left: u64,
    hasher: Option<Hasher>,
    /// Which of several sources has it.
    source: Option<String>,
    /// Told when the bytes are not the blob's.
    on_corrupt: Option<Box<dyn Fn() + Send>>,
}

impl<R: Read> VerifyReader<R> {
    /// Of the blob that `descriptor` promises.
    pub fn new(inner: R, descriptor: &Descriptor) -> Self {
        Self {
            inner,
            digest: descriptor.digest,
            size: descriptor.size,
            left: descriptor.size,
            hasher: Some(Hasher::new()),
            source: None,
            on_corrupt: None,
        }
    }

    /// The same, which tells when the bytes are not the blob's, so that nobody keeps them.
    pub fn on_corrupt(self, tell: impl Fn() + Send + 'static) -> Self {
        Self { on_corrupt: Some(Box::new(tell)), ..self }
    }

    /// The same, whose errors name the source that it is from.
    pub fn from_source(self, source: String) -> Self {
        Self { source: Some(source), ..self }
    }

    fn corrupt(&self, reason: String) -> io::Error {
        if let Some(tell) = &self.on_corrupt {
            tell();
        }
        let reason = match &self.source {
            Some(source) => format!("{reason} (in {source})"),
            None => reason,
        };
        io::Error::new(io::ErrorKind::InvalidData, Error::CorruptBlob { digest: self.digest, reason })
    }

    fn check_end(&mut self) -> io::Result<()> {
        if self.hasher.is_none() {
            return Ok(());
        }
        // Who is told of an interruption reads again, and would then be told of a good end: it is not told.
        let further = loop {
            match self.inner.read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        if further != 0 {
            return Err(self.corrupt(format!("it is longer than its {} bytes", self.size)));
        }
        let actual = hasher.finish();
        if actual != self.digest {
            return Err(self.corrupt(format!("its bytes have the digest {actual}")));
        }
        Ok(())
    }

    /// Reads the whole blob, which must be a document.
    ///
    /// # Errors
    /// [`Error::Limit`] over `limit` bytes; [`Error::CorruptBlob`].
    pub fn read_document(mut self, limit: u64) -> Result<Vec<u8>> {
        if self.size > limit {
            return Err(Error::Limit {
                what: format!("the size of the document {}", self.digest),
                value: self.size,
                limit,
                hint: "",
            });
        }
        let mut bytes = Vec::new();
        let digest = self.digest;
        self.read_to_end(&mut bytes).map_err(|e| into_error(e, digest))?;
        Ok(bytes)
    }
}

/// The library's error inside an I/O error, or what the system said, or a corrupt blob with the I/O error's text.
pub fn into_error(error: io::Error, digest: Digest) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        // A disk that cannot be read says nothing about the bytes.
        Err(error) if error.raw_os_error().is_some() => Error::io("read the blob", digest.to_string(), error),
        Err(error) => Error::CorruptBlob { digest, reason: error.to_string() },
    }
}

impl<R: Read> Read for VerifyReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.check_end()?;
            return Ok(0);
        }
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.inner.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(self.corrupt(format!("it ends after {} of {} bytes", self.size - self.left, self.size)));
        }
        self.left -= got as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..got]);
        }
        if self.left == 0 {
            self.check_end()?;
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], promised: &[u8], piece: usize) -> Result<Vec<u8>> {
        let descriptor = Descriptor::of("", promised);
        let mut reader = VerifyReader::new(bytes, &descriptor);
        let (mut found, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match reader.read(&mut buffer).map_err(|e| into_error(e, descriptor.digest))? {
                0 => return Ok(found),
                n => found.extend(&buffer[..n]),
            }
        }
    }

    /// Each read is interrupted once, at the end too.
    struct Interrupted<'a>(&'a [u8], bool);

    impl Read for Interrupted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(buffer) }
        }
    }

    #[test]
    fn an_interrupted_read_is_no_way_around_the_digest() {
        for (bytes, good) in [(b"four", true), (b"Four", false)] {
            let mut reader = VerifyReader::new(Interrupted(bytes, false), &Descriptor::of("", b"four"));
            let mut found = Vec::new();
            assert_eq!(reader.read_to_end(&mut found).is_ok(), good);
            assert_eq!(found == bytes, good);
        }
    }

    #[test]
    fn only_the_promised_bytes_come_to_an_end() {
        for piece in [1, 3, 4, 5, 100] {
            assert_eq!(read(b"four", b"four", piece).unwrap(), b"four");
            assert_eq!(read(b"", b"", piece).unwrap(), b"");
            for (bytes, text) in [
                (&b"fou"[..], "it ends after 3 of 4 bytes"),
                (b"", "it ends after 0 of 4 bytes"),
                (b"four!", "it is longer than its 4 bytes"),
                (b"flour", "it is longer than its 4 bytes"),
                (b"five", "its bytes have the digest"),
            ] {
                let error = read(bytes, b"four", piece).unwrap_err();
                assert!(matches!(error, Error::CorruptBlob { .. }), "{error}");
                assert!(error.to_string().contains(text), "{error}");
            }
        }
    }
}
