//! The image tower's seams.

use super::naive::{self, Hooks, JOINT, LAYERS, Naive, WIDTH, gap, insert, mix, noise, same, var};
use super::{All, clip, hooked, mask, tensor};
use candle_core::Tensor;
use clip::{DeepImage, How, ImagePrompt};

const BATCH: usize = 3;

fn pixels() -> Tensor {
    noise(&[BATCH, 3, 8, 8], 50, 1.0)
}

fn at(block: usize, position: usize, rows: &candle_core::Var, how: How) -> DeepImage {
    DeepImage {
        block,
        position,
        rows: tensor(rows),
        how,
    }
}

#[test]
fn tokens_enter_behind_the_class_token_and_are_overwritten_or_mixed_later() {
    let tensors = naive::tensors();
    let clip = clip(&tensors);
    let tower = clip.transformer().unwrap();
    let (first, second) = (var(&[2, WIDTH], 2, 0.5), var(&[2, WIDTH], 3, 0.5));
    let (tokens, deep) = (var(&[2, WIDTH], 4, 0.5), var(&[2, WIDTH], 5, 0.5));
    for (block, how, share, behind) in [
        (1, How::Instead, 1.0, false),
        (1, How::Mixed(0.3), 0.3, true),
        (0, How::Mixed(0.6), 0.6, false),
        (0, How::Mixed(0.6), 0.6, true),
    ] {
        let mut prompt = ImagePrompt {
            rows: vec![
                at(block, 1, &first, How::Insert),
                at(block + 1, 1, &second, how),
            ],
            ..ImagePrompt::default()
        };
        if behind {
            prompt.tokens = Some(tensor(&tokens));
            prompt.deep = vec![tensor(&deep)];
        }
        let naive = Naive { tensors: &tensors };
        let before = |i: usize, mut x: Tensor| {
            if behind && i == 1 {
                let last = x.dim(0)? - 2;
                x = mix(&x, last, &deep, 1.0)?;
            }
            match i {
                i if i == block => insert(&x, 1, &first),
                i if i == block + 1 => mix(&x, 1, &second, share),
                _ => Ok(x),
            }
        };
        let hidden = || {
            let tokens = behind.then_some(tokens.as_tensor());
            naive.images(&pixels(), tokens, &|_, run| {
                run(&Hooks {
                    before: &before,
                    ..Hooks::default()
                })
            })
        };
        let mut of = vec![&first, &second];
        if behind {
            of.extend([&tokens, &deep]);
        }
        // Every token, the class token's feature, and features of the tokens that entered.
        let found = tower.hidden(&pixels(), &prompt).unwrap();
        let extra = if behind { 4 } else { 2 };
        assert_eq!(found.dims(), [BATCH, 5 + extra, WIDTH]);
        same(&found, &hidden, &of);
        let feature = tower.encode(&pixels(), &prompt).unwrap();
        let class = || {
            naive
                .read(&hidden())
                .narrow(1, 0, 1)
                .unwrap()
                .squeeze(1)
                .unwrap()
        };
        same(&feature, &class, &of);
        let entered = tower
            .read(&found.narrow(1, 1, 2).unwrap(), &prompt)
            .unwrap();
        assert_eq!(entered.dims(), [BATCH, 2, JOINT]);
        let expected = || naive.read(&hidden().narrow(1, 1, 2).unwrap());
        same(&entered, &expected, &of);
    }
}

#[test]
fn every_token_is_read_as_the_class_token_is() {
    let tensors = naive::tensors();
    let clip = clip(&tensors);
    let tower = clip.transformer().unwrap();
    let plain = ImagePrompt::default();
    // More pictures than go through at once.
    let many = noise(&[700, 3, 8, 8], 51, 1.0);
    let tokens = clip.encode_image_tokens(&many).unwrap();
    assert_eq!(tokens.dims(), [700, 5, JOINT]);
    let class = tokens.narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
    assert!(gap(&class, &clip.encode_image(&many).unwrap()) < 1e-5);
    let naive = Naive { tensors: &tensors };
    let some = many.narrow(0, 650, 3).unwrap();
    let hidden = naive.images(&some, None, &|_, run| run(&Hooks::default()));
    assert!(gap(&tokens.narrow(0, 650, 3).unwrap(), &naive.read(&hidden)) < 5e-5);

    let normed = tower
        .post(&tower.hidden(&some, &plain).unwrap(), &plain)
        .unwrap();
    let read = normed.broadcast_matmul(tower.projection()).unwrap();
    assert!(gap(&read, &naive.read(&hidden)) < 5e-5);
    assert_eq!(gap(tower.projection(), &tensors["visual.proj"]), 0.0);
    let norm = tower.norm_after();
    assert_eq!(gap(&norm.gain, &tensors["visual.ln_post.weight"]), 0.0);
    let [first, _] = tower.blocks()[1].norms().unwrap();
    let name = "visual.transformer.resblocks.1.ln_1.bias";
    assert_eq!(gap(&first.bias, &tensors[name]), 0.0);
}

#[test]
fn changes_are_those_of_the_plain_tower_with_dropout_for_each_row() {
    let tensors = naive::tensors();
    let clip = clip(&tensors);
    let tower = clip.transformer().unwrap();
    let all = All::new(true);
    for drops in [false, true] {
        let whole = |block, p| drops.then(|| mask(BATCH * 5, block, p));
        let prompt = ImagePrompt {
            changes: all.changes(&whole),
            ..ImagePrompt::default()
        };
        let hidden = || {
            let replaced = all.tensors(tensors.clone(), "visual.");
            let naive = Naive { tensors: &replaced };
            let hidden = naive.images(&pixels(), None, &|i, run| {
                let own = |block, p| Some(whole(block, p)?.narrow(0, 5 * i, 5).unwrap());
                run(&hooked(
                    &|block, p, x| all.project(block, p, x, &own),
                    &|block, normed| all.beside(block, normed),
                ))
            });
            naive.read(&hidden)
        };
        let class = || hidden().narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
        let features = tower.encode(&pixels(), &prompt).unwrap();
        same(&features, &class, &all.variables());
        let found = tower.hidden(&pixels(), &prompt).unwrap();
        let found = tower.read(&found, &prompt).unwrap();
        same(&found, &hidden, &all.variables());
    }
}

#[test]
fn misplaced_rows_are_refused() {
    let clip = clip(&naive::tensors());
    let tower = clip.transformer().unwrap();
    let rows = var(&[2, WIDTH], 2, 0.5);
    let encode = |row| {
        let rows = vec![row];
        let prompt = ImagePrompt {
            rows,
            ..ImagePrompt::default()
        };
        tower.encode(&pixels(), &prompt)
    };
    assert!(encode(at(1, 5, &rows, How::Insert)).is_ok());
    for bad in [
        at(1, 0, &rows, How::Insert),
        at(1, 6, &rows, How::Insert),
        at(1, 4, &rows, How::Instead),
        at(LAYERS, 1, &rows, How::Insert),
        at(1, 1, &var(&[2, 3], 2, 0.5), How::Insert),
    ] {
        assert!(encode(bad).is_err());
    }
    let mut changes = clip::Changes::default();
    changes.block(LAYERS);
    let prompt = ImagePrompt {
        changes,
        ..ImagePrompt::default()
    };
    assert!(tower.encode(&pixels(), &prompt).is_err());
}

#[test]
fn passes_that_share_what_lies_below_have_the_bits_of_passes_over_the_pixels() {
    let clip = clip(&naive::tensors());
    let tower = clip.transformer().unwrap();
    let rows = var(&[2, WIDTH], 2, 0.5);
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    // As many as go through at once; more; and one more than a multiple of that, whose rows are so few that they could be
    // multiplied in another order.
    for (count, shares) in [(3, true), (400, true), (641, false)] {
        let pixels = noise(&[count, 3, 8, 8], 50, 1.0);
        for block in [1, 2] {
            let mut prompt = ImagePrompt {
                rows: vec![at(block, 1, &rows, How::Insert)],
                ..ImagePrompt::default()
            };
            if block == 1 {
                prompt.changes = All::new(true).changes(&|_, _| None);
                prompt.changes.blocks.remove(&0);
                prompt.changes.norm_before = None;
            }
            let below = tower.below(&pixels, &prompt).unwrap();
            let stands = if shares && !super::on_card() {
                block
            } else {
                0
            };
            assert_eq!(below.block(), stands);
            let plain = ImagePrompt::default();
            assert!(
                flat(&below.encode(&plain).unwrap()) == flat(&clip.encode_image(&pixels).unwrap())
            );
            let bits = |features: Tensor| {
                let weights = noise(features.dims(), 7, 1.0);
                let loss = (&features * weights).unwrap().sum_all().unwrap();
                let gradients = loss.backward().unwrap();
                (flat(&features), flat(gradients.get(&rows).unwrap()))
            };
            let [apart, shared] = [tower.hidden(&pixels, &prompt), below.hidden(&prompt)];
            assert!(bits(apart.unwrap()) == bits(shared.unwrap()), "{count}");
            let [apart, shared] = [tower.encode(&pixels, &prompt), below.encode(&prompt)];
            assert!(bits(apart.unwrap()) == bits(shared.unwrap()), "{count}");
        }
    }
}

#[test]
fn nothing_is_shared_where_passes_have_nothing_in_common() {
    let clip = clip(&naive::tensors());
    let tower = clip.transformer().unwrap();
    let rows = var(&[2, WIDTH], 2, 0.5);
    let late = ImagePrompt {
        rows: vec![at(2, 1, &rows, How::Insert)],
        ..ImagePrompt::default()
    };
    let block = |tower: &clip::VisionTransformer, pixels: &Tensor, prompt: &ImagePrompt| {
        tower.below(pixels, prompt).unwrap().block()
    };
    let shared = if super::on_card() { 0 } else { 2 };
    assert_eq!(block(tower, &pixels(), &late), shared);
    // A prompt that does nothing lets all go on to where class tokens are read.
    assert_eq!(block(tower, &pixels(), &ImagePrompt::default()), shared);

    let early = ImagePrompt {
        tokens: Some(tensor(&rows)),
        ..late.clone()
    };
    assert_eq!(block(tower, &pixels(), &early), 0);
    let mut changed = late.clone();
    changed.changes.norm_before = tower.norm_before().ok();
    assert_eq!(block(tower, &pixels(), &changed), 0);
    let trained = var(&[BATCH, 3, 8, 8], 50, 1.0);
    assert_eq!(block(tower, trained.as_tensor(), &late), 0);
    if super::on_card() {
        return;
    }
    let refused = tower.below(&pixels(), &late).unwrap();
    let refused = refused.encode(&early).unwrap_err().to_string();
    let said = "this prompt begins at block 0, and these pictures have gone up to block 2";
    assert!(refused.contains(said), "{refused}");
    let mut rounded = clip.clone();
    rounded
        .use_arithmetic(clip::ops::Arithmetic::Emulated)
        .unwrap();
    let clip::ImageTower::Transformer(tower) = &mut rounded.image else {
        unreachable!("it has a vision transformer")
    };
    assert_eq!(block(tower, &pixels(), &late), 2);
    tower.use_bfloat16().unwrap();
    assert_eq!(block(tower, &pixels(), &late), 0);
}
