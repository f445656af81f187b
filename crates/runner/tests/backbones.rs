//! Backbones: by name, from a server on this machine that speaks the hub's paths and has a hub's troubles; and which
//! methods they take.

#![allow(clippy::unwrap_used, reason = "tests fail by panic")]

#[allow(dead_code, reason = "the bed does more than these tests need")]
mod bed;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bed::{Answer, Bed};
use candle_core::{DType, Device, Tensor};

const COMMIT: &str = "57c216476eefef5ab752ec549e440a49ae4ae5f3";
const REPO: &str = "openai/clip-vit-base-patch16";
/// The shipped weights stand for those of the hub: a CLIP is told by its content.
const WEIGHTS: &[u8] = include_bytes!("../assets/drawn-clip.safetensors");
/// Git's hash of a small file; nothing compares it.
const SMALL: &str = "28ccb7e5b1a5f2b1f4c8a0ee97b60ea1f2ba1b3a";

/// How the server answers.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    /// Ends each transfer of weights after this many bytes, once.
    BreaksOff(usize),
    /// Sends other bytes than it names the hash of.
    Damaged,
    /// Names this hash.
    Tagged(&'static str),
    Missing,
}

/// What was asked: path and first byte.
type Asked = Arc<Mutex<Vec<(String, u64)>>>;

struct Hub {
    endpoint: String,
    asked: Asked,
    mood: Arc<Mutex<Mood>>,
}

impl Hub {
    fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (asked, mood) = (Asked::default(), Arc::new(Mutex::new(mood)));
        let state = (endpoint.clone(), asked.clone(), mood.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (endpoint, asked, mood) = state.clone();
                std::thread::spawn(move || serve(&stream, &endpoint, &asked, &mood));
            }
        });
        Self {
            endpoint,
            asked,
            mood,
        }
    }

    fn asked(&self) -> Vec<(String, u64)> {
        self.asked.lock().unwrap().clone()
    }
}

/// Answers one request and closes.
fn serve(mut stream: &TcpStream, endpoint: &str, asked: &Asked, mood: &Mutex<Mood>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let headers: BTreeMap<String, String> = lines
        .take_while(|l| !l.is_empty())
        .filter_map(|l| {
            let (name, value) = l.split_once(':')?;
            Some((name.to_lowercase(), value.trim().to_owned()))
        })
        .collect();
    let path = request.split(' ').nth(1).unwrap_or("").to_owned();
    let range = headers.get("range").and_then(|r| r.strip_prefix("bytes="));
    let (first, last) = range.and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
    let first: u64 = first.parse().unwrap_or(0);
    asked.lock().unwrap().push((path.clone(), first));

    let now = *mood.lock().unwrap();
    let hash = promptbed::hash::hex(WEIGHTS);
    let tag = match now {
        Mood::Tagged(tag) => tag.to_owned(),
        _ => hash,
    };
    let mut answer = |text: String| drop(stream.write_all(text.as_bytes()));
    let resolve = format!("/{REPO}/resolve/main/");
    let content: Vec<u8> = match path.strip_prefix(&resolve) {
        _ if now == Mood::Missing => {
            answer(
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
            );
            return;
        }
        // A small file comes from the server itself, by way of a relative redirect, as the hub has it.
        Some("config.json") => {
            answer(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: /api/resolve-cache/config.json\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n"
                    .into(),
            );
            return;
        }
        // A large one comes from elsewhere.
        Some("pytorch_model.bin") => {
            answer(format!(
                "HTTP/1.1 302 Found\r\nLocation: {endpoint}/cdn/{tag}\r\nX-Repo-Commit: {COMMIT}\r\n\
                 X-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {}\r\nETag: \"of-the-redirect\"\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n",
                WEIGHTS.len()
            ));
            return;
        }
        _ if path.starts_with("/api/resolve-cache/") => b"{}".to_vec(),
        _ if path.starts_with("/cdn/") && now == Mood::Damaged => {
            let mut other = WEIGHTS.to_vec();
            let last = other.len() - 1;
            other[last] ^= 1;
            other
        }
        _ if path.starts_with("/cdn/") => WEIGHTS.to_vec(),
        _ => Vec::new(),
    };
    let all = content.len();
    if first as usize >= all {
        answer(
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                .into(),
        );
        return;
    }
    let end = last.parse().map_or(all, |l: usize| (l + 1).min(all));
    let piece = &content[first as usize..end];
    answer(format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{all}\r\nContent-Length: {}\r\n\
         ETag: \"{SMALL}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        end - 1,
        piece.len()
    ));
    match now {
        Mood::BreaksOff(bytes) if piece.len() > bytes => {
            let _ = stream.write_all(&piece[..bytes]);
        }
        _ => drop(stream.write_all(piece)),
    }
}

/// `promptbed ARGUMENTS` with this server and nothing of the user's.
fn with_hub(bed: &Bed, endpoint: &str, more: &[(&str, &str)], arguments: &[&str]) -> Answer {
    let mut command = bed.command(arguments);
    command.env_remove("HF_HUB_OFFLINE");
    for proxy in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command
        .env("HF_ENDPOINT", endpoint)
        .envs(more.iter().copied());
    let output = command.output().unwrap();
    Answer {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn fetch(bed: &Bed, hub: &Hub) -> Answer {
    with_hub(bed, &hub.endpoint, &[], &["model", "fetch", "clip-vit-b16"])
}

fn repository(bed: &Bed) -> PathBuf {
    bed.path("home/hub/models--openai--clip-vit-base-patch16")
}

fn blob(bed: &Bed) -> PathBuf {
    repository(bed)
        .join("blobs")
        .join(promptbed::hash::hex(WEIGHTS))
}

#[test]
fn a_fetched_backbone_lies_in_the_cache_of_the_hub_and_goes_by_its_name() {
    let bed = Bed::with_suite("");
    let hub = Hub::start(Mood::Well);
    // A slash too many is the user's right.
    let answer = with_hub(
        &bed,
        &format!("{}/", hub.endpoint),
        &[],
        &["model", "fetch", "clip-vit-b16"],
    );
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let hash = promptbed::hash::hex(WEIGHTS);
    assert!(
        answer
            .stdout
            .contains(&format!("SHA-256 {hash}, as the hub has it")),
        "{}",
        answer.stdout
    );
    let snapshot = repository(&bed).join("snapshots").join(COMMIT);
    assert_eq!(
        std::fs::read(snapshot.join("pytorch_model.bin")).unwrap(),
        WEIGHTS
    );
    assert_eq!(std::fs::read(snapshot.join("config.json")).unwrap(), b"{}");
    assert_eq!(
        std::fs::read_to_string(repository(&bed).join("refs/main")).unwrap(),
        COMMIT
    );

    let listed = with_hub(&bed, "http://127.0.0.1:1", &[], &["model", "list"]);
    let line = |name: &str| {
        let line = listed
            .stdout
            .lines()
            .find(|l| l.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("{name}: {}", listed.stdout))
            .to_owned()
    };
    assert!(
        line("clip-vit-b16").contains("  here "),
        "{}",
        listed.stdout
    );
    assert!(line("clip-vit-b32").contains("  - "), "{}", listed.stdout);
    assert!(line("drawn").contains("  ships "), "{}", listed.stdout);

    // No server is asked for what is here.
    std::fs::write(bed.path("texts.json"), r#"["a photo of a cat."]"#).unwrap();
    let features = |more: &[&str], out: &str| {
        let arguments = [&["encode", "--texts", "texts.json", "--out", out], more].concat();
        let answer = with_hub(&bed, "http://127.0.0.1:1", &[], &arguments);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        std::fs::read(bed.path(out)).unwrap()
    };
    assert_eq!(
        features(&["--model", "clip-vit-b16"], "named"),
        features(&["--model", "drawn"], "shipped")
    );
    let checked = with_hub(
        &bed,
        "http://127.0.0.1:1",
        &[],
        &["model", "check", "clip-vit-b16"],
    );
    assert!(checked.stdout.contains("fingerprint"), "{}", checked.stderr);

    let suite = "version = 1\nprotocol = \"few-shot\"\nbackbone = \"clip-vit-b16\"\n\
        datasets = [\"drawn-textures\"]\nshots = [1]\nseeds = [1]\n[[method]]\nname = \"zero-shot\"\n";
    std::fs::write(bed.path("suite.toml"), suite).unwrap();
    let run = with_hub(
        &bed,
        "http://127.0.0.1:1",
        &[],
        &["run", "suite.toml", "--out", "out", "--dry-run"],
    );
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn what_is_there_is_not_fetched_again_but_is_checked() {
    let bed = Bed::with_suite("");
    let hub = Hub::start(Mood::Well);
    assert_eq!(fetch(&bed, &hub).code, Some(0));
    let before = hub.asked().len();
    let answer = fetch(&bed, &hub);
    assert!(answer.stdout.contains("was there"), "{}", answer.stdout);
    let again: Vec<_> = hub.asked().split_off(before);
    // What is asked for are first bytes only: size and hash.
    assert!(
        again.len() <= 8 && again.iter().all(|(_, first)| *first == 0),
        "{again:?}"
    );

    // A file that went bad on the disk is found out, removed, and fetched by the next call.
    let mut bad = WEIGHTS.to_vec();
    bad[1000] ^= 1;
    std::fs::write(blob(&bed), bad).unwrap();
    let answer = fetch(&bed, &hub);
    assert_eq!(answer.code, Some(2), "{}", answer.stdout);
    assert!(answer.stderr.contains("SHA-256"), "{}", answer.stderr);
    assert!(!blob(&bed).exists());
    assert_eq!(fetch(&bed, &hub).code, Some(0));
    assert_eq!(std::fs::read(blob(&bed)).unwrap(), WEIGHTS);
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_ended() {
    let bed = Bed::with_suite("");
    let piece = WEIGHTS.len() / 3;
    let hub = Hub::start(Mood::BreaksOff(piece));
    let answer = fetch(&bed, &hub);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(std::fs::read(blob(&bed)).unwrap(), WEIGHTS);
    let starts: Vec<u64> = hub
        .asked()
        .into_iter()
        .filter(|(path, first)| path.starts_with("/cdn/") && *first > 0)
        .map(|(_, first)| first)
        .collect();
    assert_eq!(starts.first(), Some(&(piece as u64)), "{starts:?}");

    // Across calls too: what an ended program left is a start.
    let bed = Bed::with_suite("");
    let hub = Hub::start(Mood::Well);
    let part = blob(&bed).with_extension("part");
    for length in [1000, WEIGHTS.len()] {
        std::fs::create_dir_all(part.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(blob(&bed));
        std::fs::write(&part, &WEIGHTS[..length]).unwrap();
        let answer = fetch(&bed, &hub);
        assert_eq!(answer.code, Some(0), "{length}: {}", answer.stderr);
        assert_eq!(std::fs::read(blob(&bed)).unwrap(), WEIGHTS, "{length}");
    }
    assert!(hub.asked().iter().any(|(_, first)| *first == 1000));
}

#[test]
fn damage_and_nonsense_are_refused_and_leave_nothing_behind() {
    for (mood, told) in [
        (Mood::Damaged, "SHA-256"),
        (Mood::Tagged("../../../escaped"), "not the hub"),
        (Mood::Tagged("/tmp/escaped"), "not the hub"),
        (Mood::Missing, "404"),
    ] {
        let bed = Bed::with_suite("");
        let hub = Hub::start(mood);
        let answer = fetch(&bed, &hub);
        assert_eq!(answer.code, Some(2), "{told}: {}", answer.stdout);
        assert!(answer.stderr.contains(told), "{told}: {}", answer.stderr);
        assert_eq!(
            answer
                .stderr
                .lines()
                .filter(|l| l.starts_with("error:"))
                .count(),
            1,
            "{}",
            answer.stderr
        );
        let snapshot = repository(&bed).join("snapshots").join(COMMIT);
        assert!(!snapshot.join("pytorch_model.bin").exists(), "{told}");
        assert!(
            !blob(&bed).exists() && !bed.path("home/escaped").exists(),
            "{told}"
        );
        // Well again, the same command is enough.
        *hub.mood.lock().unwrap() = Mood::Well;
        let answer = fetch(&bed, &hub);
        assert_eq!(answer.code, Some(0), "{told}: {}", answer.stderr);
    }
}

#[test]
fn offline_asks_no_server() {
    let bed = Bed::with_suite("");
    let hub = Hub::start(Mood::Well);
    let offline = |value| {
        with_hub(
            &bed,
            &hub.endpoint,
            &[("HF_HUB_OFFLINE", value)],
            &["model", "fetch", "clip-vit-b16"],
        )
    };
    for value in ["1", "YES", "true", "On"] {
        let answer = offline(value);
        assert_eq!(answer.code, Some(2));
        assert!(
            answer.stderr.contains("HF_HUB_OFFLINE"),
            "{}",
            answer.stderr
        );
    }
    assert!(hub.asked().is_empty());
    assert_eq!(offline("0").code, Some(0));
    let before = hub.asked().len();
    let answer = offline("1");
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(hub.asked().len(), before);
}

#[test]
fn a_backbone_that_is_not_here_names_the_command_that_gets_it() {
    let suite = "version = 1\nprotocol = \"few-shot\"\nbackbone = \"clip-rn50\"\n\
        datasets = [\"drawn-textures\"]\nshots = [1]\nseeds = [1]\n[[method]]\nname = \"zero-shot\"\n";
    let bed = Bed::with_suite(suite);
    let nowhere = "http://127.0.0.1:1";
    for arguments in [
        vec!["run", "suite.toml"],
        vec![
            "encode",
            "--model",
            "clip-rn50",
            "--pixels",
            "x",
            "--out",
            "y",
        ],
        vec!["model", "check", "clip-rn50"],
    ] {
        let answer = with_hub(&bed, nowhere, &[], &arguments);
        assert_eq!(answer.code, Some(2));
        assert!(
            answer.stderr.contains("`promptbed model fetch clip-rn50`"),
            "{}",
            answer.stderr
        );
    }
    let answer = with_hub(&bed, nowhere, &[], &["model", "fetch", "clip-rn51"]);
    assert!(answer.stderr.contains("clip-rn50x4"), "{}", answer.stderr);
    let answer = with_hub(&bed, nowhere, &[], &["model", "fetch", "clip-rn50"]);
    assert_eq!(answer.code, Some(2));
    assert!(
        answer
            .stderr
            .contains("http://127.0.0.1:1/timm/resnet50_clip.openai/resolve/main/"),
        "{}",
        answer.stderr
    );
}

/// A file with the shapes of a small ResNet CLIP and nothing but NaN in it: whoever reads its numbers fails.
fn resnet() -> Vec<u8> {
    let (w, e, width) = (8, 4, 2); // text width, joint width, channels after the stem
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut put = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
    put("positional_embedding".into(), &[77, w]);
    put("token_embedding.weight".into(), &[2, w]);
    put("text_projection".into(), &[w, e]);
    put("logit_scale".into(), &[]);
    let block = "transformer.resblocks.0";
    for (name, shape) in [
        ("attn.in_proj_weight", vec![3 * w, w]),
        ("attn.in_proj_bias", vec![3 * w]),
        ("attn.out_proj.weight", vec![w, w]),
        ("attn.out_proj.bias", vec![w]),
        ("mlp.c_fc.weight", vec![4 * w, w]),
        ("mlp.c_fc.bias", vec![4 * w]),
        ("mlp.c_proj.weight", vec![w, 4 * w]),
        ("mlp.c_proj.bias", vec![w]),
    ] {
        put(format!("{block}.{name}"), &shape);
    }
    for norm in [
        "ln_final",
        "transformer.resblocks.0.ln_1",
        "transformer.resblocks.0.ln_2",
    ] {
        put(format!("{norm}.weight"), &[w]);
        put(format!("{norm}.bias"), &[w]);
    }
    let mut convolution = |kernel: String, norm: String, shape: [usize; 4]| {
        put(format!("visual.{kernel}.weight"), &shape);
        for leaf in ["weight", "bias", "running_mean", "running_var"] {
            put(format!("visual.{norm}.{leaf}"), &shape[..1]);
        }
    };
    for (i, out, from) in [
        (1, width / 2, 3),
        (2, width / 2, width / 2),
        (3, width, width / 2),
    ] {
        convolution(format!("conv{i}"), format!("bn{i}"), [out, from, 3, 3]);
    }
    let mut from = width;
    for stage in 0..4 {
        let (block, inner) = (format!("layer{}.0", stage + 1), width << stage);
        for (i, shape) in [
            [inner, from, 1, 1],
            [inner, inner, 3, 3],
            [4 * inner, inner, 1, 1],
        ]
        .into_iter()
        .enumerate()
        {
            convolution(
                format!("{block}.conv{}", i + 1),
                format!("{block}.bn{}", i + 1),
                shape,
            );
        }
        let shortcut = [4 * inner, from, 1, 1];
        convolution(
            format!("{block}.downsample.0"),
            format!("{block}.downsample.1"),
            shortcut,
        );
        from = 4 * inner;
    }
    let pool = "visual.attnpool";
    put(format!("{pool}.positional_embedding"), &[2, from]);
    for (name, out) in [
        ("q_proj", from),
        ("k_proj", from),
        ("v_proj", from),
        ("c_proj", e),
    ] {
        put(format!("{pool}.{name}.weight"), &[out, from]);
        put(format!("{pool}.{name}.bias"), &[out]);
    }
    let mut tensors: Vec<(String, Tensor)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let zeros = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
            (name, (zeros * f64::NAN).unwrap())
        })
        .collect();
    let ids = Tensor::new(&[49406i64, 49407], &Device::Cpu).unwrap();
    tensors.push(("token_embedding.ids".to_owned(), ids));
    safetensors::serialize(tensors, None).unwrap()
}

#[test]
fn methods_with_image_tokens_say_so_for_a_resnet_before_its_numbers_are_read() {
    let suite = |methods: &[&str]| {
        let head = "version = 1\nprotocol = \"base-to-novel\"\ndatasets = [\"drawn-textures\"]\nshots = [1]\nseeds = [1]\n";
        let lines = methods
            .iter()
            .map(|m| format!("[[method]]\nname = \"{m}\"\n"));
        head.to_owned() + &lines.collect::<String>()
    };
    let bed = Bed::with_suite(&suite(&[
        "coop",
        "maple",
        "vpt",
        "ivlp",
        "promptsrc",
        "language-prompting",
        "kgcoop",
    ]));
    std::fs::write(bed.path("rn.safetensors"), resnet()).unwrap();
    let run = || {
        bed.run(&[
            "run",
            "suite.toml",
            "--model",
            "rn.safetensors",
            "--out",
            "out",
        ])
    };
    let answer = run();
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    assert!(
        !answer.stderr.contains("finite") && !bed.path("out").exists(),
        "{}",
        answer.stderr
    );
    let told: Vec<&str> = answer
        .stderr
        .lines()
        .filter_map(|l| l.split("method ").nth(1)?.split(':').next())
        .collect();
    assert_eq!(
        told,
        ["maple", "vpt", "ivlp", "promptsrc"],
        "{}",
        answer.stderr
    );
    // The others get as far as the numbers.
    std::fs::write(
        bed.path("suite.toml"),
        suite(&["zero-shot", "coop", "cocoop", "kgcoop", "prograd"]),
    )
    .unwrap();
    let answer = run();
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    assert!(
        answer.stderr.contains("not finite") && !answer.stderr.contains("ResNet"),
        "{}",
        answer.stderr
    );
    assert!(
        answer.stderr.contains("rn.safetensors"),
        "{}",
        answer.stderr
    );
}
