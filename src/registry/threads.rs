//! The threads of a client: one moves the bytes of all connections, and each name is looked up on one of its own. Where the
//! system refuses one, that is an error; the threads that tokio starts by itself would be a panic.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    thread::Builder,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::{runtime::Handle, sync::oneshot};

/// Runs the connections of a client, until it is dropped, anywhere.
pub(super) struct Connections {
    handle: Handle,
    /// The thread ends when this goes.
    _running: oneshot::Sender<()>,
}

impl Connections {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel::<()>();
        Builder::new().name("snapcask-http".into()).spawn(move || {
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _running: running })
    }

    /// What futures are waited for with.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

/// Looks names up as the system does.
pub(super) struct Names;

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let (sender, found) = oneshot::channel::<io::Result<Vec<SocketAddr>>>();
        let host = name.as_str().to_owned();
        let look_up = move || (host.as_str(), 0).to_socket_addrs().map(Iterator::collect);
        let started = Builder::new().name("snapcask-dns".into()).spawn(move || drop(sender.send(look_up())));
        Box::pin(async move {
            started.map_err(|e| io::Error::new(e.kind(), format!("cannot start a thread to look the name up: {e}")))?;
            Ok(Box::new(found.await??.into_iter()) as Addrs)
        })
    }
}
