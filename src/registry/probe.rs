//! What a port speaks, where it does not answer as it should: TLS or plain HTTP.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use reqwest::Url;
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

/// Longest time for each step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether what listens there answers a greeting of TLS with a record of TLS. Nothing of ours is sent but the host's name.
pub(super) fn speaks_tls(url: &Url, config: ClientConfig) -> bool {
    let greeted = || {
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(host).ok()?).ok()?;
        let mut greeting = Vec::new();
        connection.write_tls(&mut greeting).ok()?;
        first_bytes(url, &greeting)
    };
    // A handshake or an alert, of any version of TLS.
    matches!(greeted(), Some([0x15 | 0x16, 3, ..]))
}

/// Whether what listens there answers a request of HTTP with HTTP. Nothing of ours is sent but the host's name.
pub(super) fn speaks_http(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    first_bytes(url, format!("GET /v2/ HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()) == Some(*b"HTTP/")
}

/// The first bytes of the answer to `message`.
fn first_bytes(url: &Url, message: &[u8]) -> Option<[u8; 5]> {
    let place = (url.host_str()?.trim_start_matches('[').trim_end_matches(']'), url.port_or_known_default()?);
    let mut stream = place.to_socket_addrs().ok()?.find_map(|at| TcpStream::connect_timeout(&at, PATIENCE).ok())?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(message).ok()?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}
