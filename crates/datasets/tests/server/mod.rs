//! A web server for tests, with bad habits.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "a server of tests; not every test uses every habit"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A file, and how it is served.
#[derive(Clone, Default)]
pub struct Served {
    /// What the server holds.
    pub bytes: Vec<u8>,
    /// Its version.
    pub etag: Option<&'static str>,
    /// Whether `Range` is ignored (200 and the whole file).
    pub refuses_ranges: bool,
    /// How many connections are cut, and after how many bytes of body.
    pub cuts: (usize, usize),
    /// Statuses of the first answers.
    pub refusals: Vec<u16>,
    /// A `Content-Length` that is not true.
    pub claims: Option<u64>,
    /// Sent without a length, in chunks.
    pub is_chunked: bool,
}

/// A running server.
pub struct Server {
    /// Where it is, without a slash at the end.
    pub url: String,
    files: Arc<Mutex<HashMap<String, Served>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves nothing yet; lives until the test process ends.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            files: Arc::default(),
            requests: Arc::default(),
        };
        let (files, requests) = (server.files.clone(), server.requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, requests) = (files.clone(), requests.clone());
                // A client that hangs up is no failure of the server.
                std::thread::spawn(move || drop(answer(stream, &files, &requests)));
            }
        });
        server
    }

    /// Serves a file at `path` (without a slash at the start).
    pub fn serve(&self, path: &str, served: Served) {
        self.files.lock().unwrap().insert(path.to_owned(), served);
    }

    /// `<path> <range or ->` of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    stream: TcpStream,
    files: &Mutex<HashMap<String, Served>>,
    requests: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line
        .split(' ')
        .nth(1)
        .unwrap_or("/")
        .trim_start_matches('/')
        .to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let range = headers.get("range").cloned();
    let asked = range.as_deref().unwrap_or("-").to_owned();
    requests.lock().unwrap().push(format!("{path} {asked}"));
    let mut out = stream;
    let (served, refusal) = {
        let mut files = files.lock().unwrap();
        match files.get_mut(&path) {
            None => (Served::default(), Some(404)),
            Some(served) => {
                let now = served.clone();
                if served.refusals.is_empty() {
                    served.cuts.0 = served.cuts.0.saturating_sub(1);
                    (now, None)
                } else {
                    (now, Some(served.refusals.remove(0)))
                }
            }
        }
    };
    if let Some(status) = refusal {
        return write!(out, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
    }
    let all = served.bytes.len();
    let matches = match (headers.get("if-range"), served.etag) {
        (Some(asked), Some(etag)) => asked == etag,
        (Some(_), None) => false,
        (None, _) => true,
    };
    let start = range
        .filter(|_| matches && !served.refuses_ranges)
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
    if start.is_some_and(|start| start >= all) {
        return write!(
            out,
            "HTTP/1.1 416 No\r\nContent-Range: bytes */{all}\r\nContent-Length: 0\r\n\r\n"
        );
    }
    let body = &served.bytes[start.unwrap_or(0)..];
    let mut head = match start {
        Some(start) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{all}\r\n",
            all - 1
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    if let Some(etag) = served.etag {
        head += &format!("ETag: {etag}\r\n");
    }
    if served.is_chunked {
        head += "Transfer-Encoding: chunked\r\n";
    } else {
        let length = served.claims.unwrap_or(body.len() as u64);
        head += &format!("Content-Length: {length}\r\n");
    }
    write!(out, "{head}Connection: close\r\n\r\n")?;
    let sent = if served.cuts.0 > 0 {
        &body[..served.cuts.1.min(body.len())]
    } else {
        body
    };
    if served.is_chunked {
        for chunk in sent.chunks(1000) {
            write!(out, "{:x}\r\n", chunk.len())?;
            out.write_all(chunk)?;
            write!(out, "\r\n")?;
        }
        if sent.len() == body.len() {
            write!(out, "0\r\n\r\n")?;
        }
    } else {
        out.write_all(sent)?;
    }
    out.flush()
}
