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
