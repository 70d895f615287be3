//! To a registry on loopback and back, beside `curl`.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    contest::{Bench, times},
    dataset::{link, must},
    installed,
    measure::{Contestant, shell},
    table::Row,
};

/// Sends every blob of a layout as a client that knows nothing better: an upload is begun, then all bytes in one request.
const CURL: &str = r#"
for blob in "$1"/blobs/sha256/*; do
    place=$(curl -sS -o /dev/null -D - -X POST "http://$2/v2/curl/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    curl -sS --fail -o /dev/null --upload-file "$blob" "$place&digest=sha256:$(basename "$blob")"
done"#;

struct Registry {
    child: Child,
    address: String,
    data: PathBuf,
}

impl Registry {
    fn start(bench: &Bench, program: &PathBuf) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (address, data, config) = (format!("127.0.0.1:{port}"), bench.path("registry"), bench.path("registry.yml"));
        bench.remove("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        for _ in 0..200 {
            if TcpStream::connect(&address).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, address, data }
    }

    fn reference(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }

    /// Empties it.
    fn clear(&self) {
        let _ = fs::remove_dir_all(self.data.join("docker"));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that a push says it sent.
fn sent(mut push: Command) -> f64 {
    let output = push.arg("--json").stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{push:?}: {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["sentBytes"].as_u64().unwrap() as f64
}

/// Push, push again, push a child, import.
pub fn registry(bench: &Bench) -> Vec<Row> {
    let Some(program) = installed(&["docker-registry"]) else {
        eprintln!("  left out: docker-registry is not installed");
        return Vec::new();
    };
    let store = bench.store();
    let registry = Registry::start(bench, &program);
    let (layout, bundle, into) = (bench.path("one"), bench.path("one.tar.zst"), bench.path("in"));
    for output in [&layout, &bundle] {
        let mut export = bench.snapcask(["export", &link(0), "--force", "-o"]);
        must(
            export
                .arg(output)
                .arg("--store")
                .arg(&store)
                .args(["--format", if output == &layout { "dir" } else { "tar.zst" }]),
        );
    }
    let push = |what: &str, parents: bool| {
        let mut command = bench.snapcask(["push", what, &registry.reference("snapshots"), "--store"]);
        command.arg(&store);
        if parents {
            command.arg("--with-parents");
        }
        command
    };
    // What earlier pushes taught would send nothing.
    let forget = || {
        bench.remove("cache");
        registry.clear();
    };
    let first = bench.against(
        "push of a bundle",
        &[
            Contestant::new("push a bundle", forget, || push(&layout.display().to_string(), false)),
            Contestant::new("curl --upload-file", forget, || shell(CURL, &[&layout, registry.address.as_ref()])),
        ],
    );
    forget();
    must(&mut push(&link(0), true));
    let again =
        bench.against("second push", &[Contestant::new("push a snapshot again", || {}, || push(&link(0), true))]);
    let sent_again = sent(push(&link(0), true));
    let child = sent(push(&link(1), true));
    let delta = {
        let mut inspect =
            bench.snapcask(["inspect", &format!("{}:{}", registry.reference("snapshots"), link(1)), "--json"]);
        let report: Value = serde_json::from_slice(&inspect.output().unwrap().stdout).unwrap();
        let layers = report["snapshots"][0]["layers"].as_array().unwrap();
        layers.last().unwrap()["size"].as_u64().unwrap() as f64
    };
    let fresh = || {
        bench.remove("in");
        fs::create_dir(&into).unwrap();
    };
    let import = |source: String| {
        let mut command = bench.snapcask(["import", &source, "--store"]);
        command.arg(&into);
        command
    };
    let back = bench.against(
        "import from a registry",
        &[
            Contestant::new("import from a registry", fresh, || {
                import(format!("{}:{}", registry.reference("snapshots"), link(0)))
            }),
            Contestant::new("import from a file", fresh, || import(bundle.display().to_string())),
        ],
    );
    for name in ["in", "one"] {
        bench.remove(name);
    }
    vec![
        Row::ratio(
            "push to loopback / `curl --upload-file` of the same blobs",
            first[0].wall() / first[1].wall(),
            1.15,
            times(&first),
        ),
        Row::most("second push of a snapshot: bytes of blobs sent", sent_again, 0.0, "B", ""),
        Row::most("second push of a snapshot: time", again[0].wall(), 0.3, "s", ""),
        Row::ratio(
            "push of a child after its parent: bytes / its delta",
            child / delta,
            1.05,
            format!("{child:.0} B, {delta:.0} B"),
        ),
        Row::ratio("import from a registry / from a file", back[0].wall() / back[1].wall(), 1.2, times(&back)),
    ]
}
