//! Real registries on loopback, each with a folder of its own.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use snapcask::Digest;

use super::tools::{tool_command, version};
use crate::fixture::write;

/// A registry program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's docker-registry, which is distribution 2.8.
    DockerRegistry,
    /// distribution 3.
    Distribution,
    /// zot.
    Zot,
    /// The registry that crane serves from memory.
    Crane,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::DockerRegistry, Self::Distribution, Self::Zot, Self::Crane];

    /// The program.
    pub fn program(self) -> &'static str {
        match self {
            Self::DockerRegistry => "docker-registry",
            Self::Distribution => "distribution",
            Self::Zot => "zot",
            Self::Crane => "crane",
        }
    }

    /// Name and version, for people.
    pub fn title(self, home: &Path) -> String {
        let version = version(self.program(), home);
        match self {
            Self::Crane => format!("crane registry serve {version}"),
            _ => format!("{} {version}", self.program()),
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A registry that ends with the test.
pub struct Registry {
    child: Child,
    pub port: u16,
}

impl Registry {
    /// Starts it with its data below `folder`, and waits until it answers.
    pub fn start(kind: Kind, folder: &Path) -> Self {
        let port = free_port();
        let data = folder.join(format!("registry-data-{port}"));
        let config = folder.join(format!("registry-{port}.conf"));
        let mut command = tool_command(kind.program(), folder);
        // distribution 3 would look for a collector of traces.
        command.env("OTEL_TRACES_EXPORTER", "none");
        match kind {
            Kind::DockerRegistry | Kind::Distribution => {
                let text = format!(
                    "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                     http: {{addr: '127.0.0.1:{port}'}}\n",
                    data.display()
                );
                write(config.clone(), text.as_bytes());
                command.arg("serve").arg(&config);
            }
            Kind::Zot => {
                let text = serde_json::json!({
                    "storage": { "rootDirectory": data },
                    "http": { "address": "127.0.0.1", "port": port.to_string() },
                    "log": { "level": "error" },
                });
                let config = config.with_extension("json");
                write(config.clone(), text.to_string().as_bytes());
                command.arg("serve").arg(&config);
            }
            Kind::Crane => {
                command.args(["registry", "serve", "--address", &format!("127.0.0.1:{port}")]);
            }
        }
        Self::wait(kind, command, port)
    }

    /// distribution with the configuration that `text` makes of its port.
    pub fn distribution(folder: &Path, text: impl FnOnce(u16) -> String) -> Self {
        Self::configured(Kind::Distribution, folder, text)
    }

    /// distribution of one kind with the configuration that `text` makes of its port.
    pub fn configured(kind: Kind, folder: &Path, text: impl FnOnce(u16) -> String) -> Self {
        let port = free_port();
        let config = folder.join(format!("registry-{port}.yml"));
        write(config.clone(), text(port).as_bytes());
        let mut command = tool_command(kind.program(), folder);
        command.env("OTEL_TRACES_EXPORTER", "none").arg("serve").arg(&config);
        Self::wait(kind, command, port)
    }

    fn wait(kind: Kind, mut command: Command, port: u16) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut registry = Self { child, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(120), "{kind:?} does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        // Else somebody else answers: the port was free a moment ago.
        assert!(registry.child.try_wait().unwrap().is_none(), "{kind:?} ended at once");
        registry
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The digest of what the registry serves as the manifest of a tag or digest, if it has it.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Digest> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        // HTTP/1.0: the body ends with the connection.
        let request = format!(
            "GET /v2/{repository}/manifests/{reference} HTTP/1.0\r\nHost: {}\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\n\r\n",
            self.host()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a header that ends");
        let status = String::from_utf8_lossy(&answer[..end]).split_whitespace().nth(1).map(str::to_owned);
        (status.as_deref() == Some("200")).then(|| Digest::of(&answer[end + 4..]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
