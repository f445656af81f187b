use super::*;
use crate::tests::{base, batch, clip, flat, logits, noise, pixels};
use candle_core::Device;

#[test]
fn the_tokens_of_a_block_are_the_space_through_the_shared_weight_and_its_own_low_rank() {
    // n = 1, S = 2, W = 1: weight [1, 2], A [[3]], B [[1, 10]], bias 0.5; the space is (1, 2):
    // (1 + 3) * 1 + (2 + 30) * 2 + 0.5.
    let var = |v: &[f32], shape: (usize, usize)| {
        let t = Tensor::from_vec(v.to_vec(), shape, &Device::Cpu).unwrap();
        variable(&t).unwrap()
    };
    let bias = variable(&Tensor::new(&[0.5f32], &Device::Cpu).unwrap()).unwrap();
    let maps = Maps::Shared {
        weight: var(&[1.0, 2.0], (1, 2)),
        own: vec![Own {
            low_rank: [var(&[3.0], (1, 1)), var(&[1.0, 10.0], (1, 2))],
            bias,
        }],
    };
    let space = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
    let tokens = maps.tokens(&space, &tracked).unwrap();
    assert_eq!(tokens[0].to_vec2::<f32>().unwrap(), [[68.5]]);
}

#[test]
fn only_classes_trained_on_are_scored_by_the_tokens_too() {
    let mut settings = Settings::new(toml::Table::new());
    let config = MmrlConfig::read(&mut settings);
    let mut method = config.mmrl(&clip(), &base(), &mut Init::seeded(1)).unwrap();
    let images = batch().images;
    let fused = logits(&method, &images);
    let mut elsewhere = base();
    elsewhere.dataset = "another".to_owned();
    method.bind(&elsewhere).unwrap();
    let class = logits(&method, &images);
    assert_ne!(class, fused);
    let alone = method.images(&images, &tracked).unwrap().class;
    let texts = method.texts(&tracked).unwrap();
    let want = scaled_cosine(&alone, &texts, SCALE).unwrap();
    let want: Vec<f32> = want.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(class, want);
    // What a step is taken on is what is trained on from there.
    method.loss(&batch()).unwrap();
    assert_eq!(logits(&method, &images), fused);
}

#[test]
fn a_step_has_the_bits_of_two_passes_over_the_pixels() {
    let clip = clip();
    let mut settings = Settings::new(toml::Table::new());
    for config in [
        MmrlConfig::read(&mut settings),
        MmrlConfig::read_plus_plus(&mut settings),
    ] {
        let mut method = config.mmrl(&clip, &base(), &mut Init::seeded(1)).unwrap();
        for (number, (_, var)) in method.parameters().iter().enumerate() {
            // Nothing that starts at zero hides a gradient.
            let values = noise(var.dims(), number as u64, 0.5);
            var.set(&values).unwrap();
        }
        // Then more pictures than the frozen tower takes at once.
        for count in [4, 400] {
            let images = Images::Pixels(pixels(count, 3));
            let labels: Vec<u32> = (0..count as u32).map(|i| i % 3).collect();
            let labels = Tensor::new(labels, &Device::Cpu).unwrap();
            let prompt = method.image_prompt(&tracked).unwrap();
            let tower = clip.transformer().unwrap();
            let below = tower.below(images.pixels().unwrap(), &prompt).unwrap();
            assert_eq!(below.block(), 1, "something is computed once");
            let texts = method.texts(&tracked).unwrap();
            let seen = method.images(&images, &tracked).unwrap();
            let frozen = images.unit_features(&clip).unwrap();
            let apart = method.scored(&seen, &frozen, &texts, &labels).unwrap();
            let shared = method.loss(&Batch::new(images, labels)).unwrap();
            let bits = |loss: Loss| {
                let gradients = loss.total.backward().unwrap();
                let parts = loss.parts.into_iter().map(|(_, part)| flat(&part));
                let own = method.parameters().into_iter();
                let own = own.map(|(_, var)| flat(gradients.get(&var).unwrap()));
                parts.chain(own).collect::<Vec<_>>()
            };
            assert!(bits(apart) == bits(shared), "{count} pictures");
        }
    }
}
