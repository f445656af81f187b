use super::*;

fn refusal(bytes: &[u8]) -> String {
    run(&mut Graph::default(), bytes).unwrap_err().problem
}

#[test]
fn numbers_texts_and_containers_are_read() {
    // pickle.dumps({"a": [1, -2, 70000, 2.5, None, True, (3,)]}, 2)
    let bytes = b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffJp\x11\x01\x00G@\x04\x00\x00\x00\x00\x00\x00N\x88K\x03\x85q\x03es.";
    let mut graph = Graph::default();
    let (top, length) = run(&mut graph, bytes).unwrap();
    assert_eq!(length, bytes.len());
    let Node::Dict(entries) = graph.node(top) else {
        panic!("{:?}", graph.node(top))
    };
    assert_eq!(graph.text(entries[0].0), Some("a"));
    let items: Vec<&Node> = graph
        .list(entries[0].1)
        .unwrap()
        .iter()
        .map(|&i| graph.node(i))
        .collect();
    assert_eq!(
        items[..3],
        [&Node::Int(1), &Node::Int(-2), &Node::Int(70000)]
    );
    assert_eq!(
        items[3..6],
        [&Node::Float(2.5), &Node::Nothing, &Node::Bool(true)]
    );
}

#[test]
fn nothing_is_ever_called() {
    // pickle.dumps of an object whose __reduce__ is os.system("echo"), protocols 2 and 4.
    let old = b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00echoq\x01\x85q\x02Rq\x03.";
    let new = b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04echo\x94\x85\x94R\x94.";
    for bytes in [old.as_slice(), new] {
        assert!(
            refusal(bytes).contains("posix.system"),
            "{}",
            refusal(bytes)
        );
    }
    for name in [
        "builtins\neval",
        "torch\nload",
        "torch.storage\n_load_from_bytes",
        "clipper\nx",
        "torch.hub\nload",
    ] {
        let bytes = format!("c{name}\n.");
        assert!(refusal(bytes.as_bytes()).contains("global"), "{name}");
    }
}

#[test]
fn unknown_opcodes_are_named() {
    assert!(refusal(b"\x80\x02\xff.").contains("0xff"));
    assert!(refusal(b"(i__main__\nX\n.").contains("INST"));
    assert!(refusal(b"\x80\x09.").contains("protocol 9"));
}

#[test]
fn lengths_are_compared_with_what_is_there() {
    assert!(refusal(b"X\xff\xff\xff\x7fabc").contains("cut short"));
    assert!(refusal(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc").contains("cut short"));
    assert!(refusal(b"\x80\x02}").contains("cut short"));
    assert!(refusal(b"").contains("cut short"));
}

#[test]
fn the_stack_below_a_mark_is_out_of_reach() {
    assert!(refusal(b"K\x01(\x85.").contains("empty"));
    assert!(refusal(b"(.").contains("empty"));
    assert!(refusal(b"t.").contains("no mark"));
}

#[test]
fn copies_of_a_long_list_are_bounded() {
    // [0] * 100000, then tuple(that list) two hundred times: small to write, large to keep.
    let mut bytes = b"](".to_vec();
    bytes.extend(b"K\x00".repeat(100_000));
    bytes.extend(b"eq\x00c__builtin__\ntuple\nq\x01");
    bytes.extend(b"h\x01h\x00\x85R".repeat(200));
    bytes.push(b'.');
    assert!(refusal(&bytes).contains("objects"));
}

#[test]
fn long_names_are_cut_in_messages() {
    let bytes = [b"ctorch.optim.".as_slice(), &[b'x'; 100_000], b"\nSGD\n."].concat();
    assert!(refusal(&bytes).len() < 200);
    let bytes = [b"I".as_slice(), &[b'x'; 100_000], b"\n."].concat();
    assert!(refusal(&bytes).len() < 200);
}

/// `{"args": ..., "epoch": 5}` where the dots are what `call` makes of a class; its letters are bytes.
fn beside(class: &str, call: &str) -> Vec<u8> {
    let mut bytes = b"\x80\x02}q\x00(X\x04\x00\x00\x00args".to_vec();
    bytes.extend(format!("c{class}\n").bytes());
    bytes.extend(call.chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
    bytes.extend(b"X\x05\x00\x00\x00epochK\x05u.");
    bytes
}

#[test]
fn what_weights_do_not_need_is_inert_and_remembered_by_name() {
    for (class, call) in [
        // An instance with a state, one of a call, one that is a dictionary or a list of its own, and a bare class.
        ("argparse\nNamespace", ")\u{81}}(X\u{2}\0\0\0lrK\u{1}ub"),
        ("pathlib\nPosixPath", "X\u{1}\0\0\0a\u{85}R"),
        ("easydict\nEasyDict", ")R(X\u{1}\0\0\0aK\u{1}u"),
        ("my.module\nTrail", ")R(K\u{1}K\u{2}e"),
        ("builtins\ngetattr", "X\u{1}\0\0\0a\u{85}R"),
        ("my.module\nKind", ""),
        // What came of a call is called itself.
        ("my.module\nmaker", ")R)R"),
    ] {
        let mut graph = Graph::default();
        let bytes = beside(class, call);
        let (top, _) = run(&mut graph, &bytes).unwrap_or_else(|e| panic!("{class}: {}", e.problem));
        let Node::Dict(entries) = graph.node(top) else {
            panic!("{class}: {:?}", graph.node(top))
        };
        assert_eq!(entries.len(), 2, "{class}");
        assert_eq!(*graph.node(entries[1].1), Node::Int(5), "{class}");
        let name = class.replace('\n', ".");
        assert!(graph.foreign().contains(&name), "{class}");
        assert!(
            matches!(
                graph.node(entries[0].1),
                Node::Foreign(_) | Node::Global(_, Role::Foreign)
            ),
            "{class}"
        );
    }
}

#[test]
fn what_only_an_attack_names_is_refused_wherever_it_stands() {
    for class in [
        "posix\nsystem",
        "os\nsystem",
        "subprocess\nPopen",
        "builtins\nexec",
        "__builtin__\neval",
        "importlib.util\nfind_spec",
    ] {
        let bytes = beside(class, ")R");
        assert!(refusal(&bytes).contains("nothing was executed"), "{class}");
    }
    assert!(refusal(&beside("my.module\nKind", "")[..20]).contains("cut short"));
}
