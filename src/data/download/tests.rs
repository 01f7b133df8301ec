//! Downloads against a server of our own, which can be told to misbehave.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::*;

/// How the server answers one request for the file it holds.
#[derive(Clone, Copy)]
pub enum Answer {
    /// As it should, with 206 for a range and 416 for one beyond the end.
    Well,
    /// The whole file, whatever the range asked for.
    NoRange,
    /// Rightly, but the connection is cut after so many bytes.
    Cut(usize),
    /// With another file of the same size.
    Wrong,
    /// With 404.
    Missing,
}

/// A server on this machine: gives the `i`-th answer to the `i`-th request, and the last one from then on.
pub struct Server {
    pub url: String,
    /// Of each request: the path, and the Range header or nothing.
    pub requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Server {
    pub fn new(files: Vec<(String, Vec<u8>)>, answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/set/", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answers) = (requests.clone(), answers.to_vec());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let (path, range) = read_request(&stream);
                let answer = answers[seen.lock().unwrap().len().min(answers.len() - 1)];
                let name = path.rsplit('/').next().unwrap();
                let file = files.iter().find(|(file, _)| file == name).map(|(_, bytes)| bytes.as_slice());
                seen.lock().unwrap().push((path.clone(), range.clone()));
                respond(stream, file, &range, answer);
            }
        });
        Self { url, requests }
    }

    fn ranges(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(_, range)| range.clone()).collect()
    }
}

fn read_request(stream: &TcpStream) -> (String, String) {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_string();
    let range = lines.filter_map(|line| line.to_lowercase().strip_prefix("range: ").map(String::from)).last();
    (path, range.unwrap_or_default())
}

fn respond(mut stream: TcpStream, file: Option<&[u8]>, range: &str, answer: Answer) {
    let Some(file) = file.filter(|_| !matches!(answer, Answer::Missing)) else {
        write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone").unwrap();
        return;
    };
    let wrong: Vec<u8> = file.iter().map(|b| b ^ 1).collect();
    let file = if matches!(answer, Answer::Wrong) { &wrong } else { file };
    let from = range.strip_prefix("bytes=").map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let from = if matches!(answer, Answer::NoRange) { 0 } else { from };
    if from >= file.len() {
        write!(stream, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        return;
    }
    let body = &file[from..];
    if from > 0 {
        let range = format!("Content-Range: bytes {from}-{}/{}", file.len() - 1, file.len());
        write!(stream, "HTTP/1.1 206 Partial Content\r\n{range}\r\n").unwrap();
    } else {
        write!(stream, "HTTP/1.1 200 OK\r\n").unwrap();
    }
    write!(stream, "Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()).unwrap();
    let sent = if let Answer::Cut(n) = answer { n.min(body.len()) } else { body.len() };
    stream.write_all(&body[..sent]).unwrap();
}

/// A file of a size that needs more than one read, and its hash.
fn content() -> (Vec<u8>, String) {
    let bytes: Vec<u8> = (0..200_000u32).map(|i| (i * i / 7) as u8).collect();
    let hash = hex(&Sha256::digest(&bytes));
    (bytes, hash)
}

/// Serves one file with one list of answers per mirror, over a `.part` left from before, and fetches it.
fn fetched(mirrors: &[&[Answer]], part: Option<&[u8]>) -> (Result<(), Vec<String>>, Vec<Server>, tempfile::TempDir) {
    let (bytes, sha256) = content();
    let servers: Vec<Server> = mirrors.iter().map(|answers| Server::new(vec![("a.gz".into(), bytes.clone())], answers)).collect();
    let dir = tempfile::tempdir().unwrap();
    if let Some(part) = part {
        fs::write(dir.path().join("a.gz.part"), part).unwrap();
    }
    let remote = Remote { name: "a.gz", size: bytes.len() as u64, sha256: &sha256 };
    let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
    let result = fetch(&remote, &urls, dir.path());
    (result, servers, dir)
}

fn files(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into()).collect()
}

fn assert_whole(dir: &tempfile::TempDir) {
    assert_eq!(files(dir), [PathBuf::from("a.gz")]);
    assert!(fs::read(dir.path().join("a.gz")).unwrap() == content().0);
}

#[test]
fn a_plain_download_leaves_the_file_and_nothing_else() {
    let (result, servers, dir) = fetched(&[&[Answer::Well]], None);
    result.unwrap();
    assert_whole(&dir);
    assert_eq!(*servers[0].requests.lock().unwrap(), [("/set/a.gz".to_string(), String::new())]);
}

#[test]
fn a_cut_connection_is_resumed_where_it_stopped() {
    let (result, servers, dir) = fetched(&[&[Answer::Cut(70_000), Answer::Cut(50_000), Answer::Well]], None);
    result.unwrap();
    assert_whole(&dir);
    assert_eq!(servers[0].ranges(), ["", "bytes=70000-", "bytes=120000-"]);
}

#[test]
fn the_next_mirror_goes_on_where_a_dead_one_stopped() {
    let (result, servers, dir) = fetched(&[&[Answer::Cut(70_000), Answer::Missing], &[Answer::Well]], None);
    result.unwrap();
    assert_whole(&dir);
    assert_eq!(servers[1].ranges(), ["bytes=70000-"]);
}

#[test]
fn a_file_begun_before_is_continued() {
    let (result, servers, dir) = fetched(&[&[Answer::Well]], Some(&content().0[..150_000]));
    result.unwrap();
    assert_whole(&dir);
    assert_eq!(servers[0].ranges(), ["bytes=150000-"]);
}

#[test]
fn a_file_left_whole_is_not_asked_for_again() {
    let (result, servers, dir) = fetched(&[&[Answer::Missing]], Some(&content().0));
    result.unwrap();
    assert_whole(&dir);
    assert!(servers[0].ranges().is_empty());
}

#[test]
fn a_server_without_ranges_sends_it_all() {
    let (result, _, dir) = fetched(&[&[Answer::NoRange]], Some(&content().0[..150_000]));
    result.unwrap();
    assert_whole(&dir);
}

#[test]
fn a_wrong_beginning_is_thrown_away() {
    for part in [vec![9; 1000], vec![9; 200_000], vec![9; 300_000]] {
        let (result, _, dir) = fetched(&[&[Answer::Well]], Some(&part));
        result.unwrap();
        assert_whole(&dir);
    }
}

#[test]
fn a_range_beyond_the_end_starts_over() {
    let (bytes, _) = content();
    // The server's file is shorter than what is here already, so that it answers 416.
    let server = Server::new(vec![("a.gz".into(), bytes[..1000].to_vec())], &[Answer::Well]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.gz.part"), &bytes[..5000]).unwrap();
    let sha256 = hex(&Sha256::digest(&bytes));
    let failures = fetch(&Remote { name: "a.gz", size: bytes.len() as u64, sha256: &sha256 }, &[&server.url], dir.path()).unwrap_err();
    assert_eq!(server.ranges()[..2], ["bytes=5000-", ""]);
    assert!(failures[0].contains("ended after 1000 of 200000 bytes"), "{failures:?}");
}

#[test]
fn after_a_wrong_hash_the_next_mirror_is_tried() {
    let (result, servers, dir) = fetched(&[&[Answer::Wrong], &[Answer::Well]], None);
    result.unwrap();
    assert_whole(&dir);
    assert_eq!((servers[0].ranges().len(), servers[1].ranges()), (1, vec![String::new()]));
}

#[test]
fn when_all_fail_each_mirror_says_why_and_nothing_wrong_stays() {
    let (result, servers, dir) = fetched(&[&[Answer::Missing], &[Answer::Wrong]], None);
    let failures = result.unwrap_err();
    assert_eq!(failures[0], format!("{}a.gz: the server answered 404", servers[0].url));
    assert!(failures[1].contains("sent a wrong file (200000 bytes): SHA-256 "), "{failures:?}");
    assert!(files(&dir).is_empty());
}

#[test]
fn too_many_bytes_are_not_stored() {
    let (bytes, sha256) = content();
    let server = Server::new(vec![("a.gz".into(), bytes)], &[Answer::Well]);
    let dir = tempfile::tempdir().unwrap();
    let failures = fetch(&Remote { name: "a.gz", size: 1000, sha256: &sha256 }, &[&server.url], dir.path()).unwrap_err();
    assert!(failures[0].ends_with("sent more than the expected 1000 bytes"), "{failures:?}");
}

#[test]
fn a_server_that_is_not_there_is_one_failure_of_many() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote { name: "a.gz", size: 1, sha256: "" };
    let failures = fetch(&remote, &[&format!("http://{closed}"), "not an address"], dir.path()).unwrap_err();
    assert_eq!(failures.len(), 2);
    assert!(failures[0].starts_with(&format!("http://{closed}/a.gz: ")), "{failures:?}");
}
