//! Initial values, drawn as PyTorch's CPU generator draws them after `torch.manual_seed(seed)`.
//!
//! The published code seeds torch and then builds CLIP, which draws too, so whole runs of it start elsewhere in the
//! stream; what is the same is the distribution and, for a tensor drawn right after seeding, every value (to float
//! rounding of `log`, `cos` and `sin`).

use candle_core::{Device, Result, Tensor};
use rand_mt::Mt;

/// A seeded stream of initial values.
#[derive(Debug)]
pub struct Init {
    generator: Mt,
    /// Second half of a pair that a draw of fewer than 16 values left behind, of deviation 1; the next such draw takes it.
    spare: Option<f64>,
}

impl Init {
    /// As after `torch.manual_seed(seed)`: the generator takes the seed's low 32 bits.
    pub fn seeded(seed: u64) -> Self {
        Self {
            generator: Mt::new(seed as u32),
            spare: None,
        }
    }

    /// A number in [0, 1) with 24 random bits, as torch draws float32.
    fn unit(&mut self) -> f32 {
        (self.generator.next_u32() & 0x00ff_ffff) as f32 / (1u32 << 24) as f32
    }

    /// `torch.empty(shape).uniform_(-bound, bound)`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn uniform(&mut self, shape: &[usize], bound: f64) -> Result<Tensor> {
        let n = shape.iter().product();
        let bound = bound as f32;
        let data: Vec<f32> = (0..n)
            .map(|_| self.unit() * (2.0 * bound) - bound)
            .collect();
        Tensor::from_vec(data, shape, &Device::Cpu)
    }

    /// `torch.empty(shape).normal_(0, deviation)`: 16 values at a time by Box-Muller; fewer than 16 one pair at a time.
    ///
    /// # Errors
    /// Those of candle.
    pub fn normal(&mut self, shape: &[usize], deviation: f64) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let mut data = vec![0f32; n];
        if n < 16 {
            self.few(&mut data, deviation);
        } else {
            data.iter_mut().for_each(|v| *v = self.unit());
            for block in data.chunks_exact_mut(16) {
                box_muller(block, deviation as f32);
            }
            if !n.is_multiple_of(16) {
                let last = &mut data[n - 16..];
                last.iter_mut().for_each(|v| *v = self.unit());
                box_muller(last, deviation as f32);
            }
        }
        Tensor::from_vec(data, shape, &Device::Cpu)
    }

    /// Small tensors: double precision pairs of 53-bit numbers, the second of each pair kept for the next value, be it of another tensor.
    fn few(&mut self, data: &mut [f32], deviation: f64) {
        for v in data {
            let z = self.spare.take().unwrap_or_else(|| {
                let mut next = || {
                    let high = u64::from(self.generator.next_u32());
                    let low = u64::from(self.generator.next_u32());
                    (((high << 32) | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
                };
                let (u1, u2) = (next(), next());
                let radius = (-2.0 * (-u2).ln_1p()).sqrt();
                let angle = 2.0 * std::f64::consts::PI * u1;
                self.spare = Some(radius * angle.sin());
                radius * angle.cos()
            });
            *v = (z * deviation) as f32;
        }
    }

    /// Weight `[out, inner]` and bias `[out]` of a fresh `torch.nn.Linear`: both uniform within `1 / sqrt(inner)`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn linear(&mut self, out: usize, inner: usize) -> Result<(Tensor, Tensor)> {
        let bound = 1.0 / (inner as f64).sqrt();
        Ok((
            self.uniform(&[out, inner], bound)?,
            self.uniform(&[out], bound)?,
        ))
    }
}

fn box_muller(block: &mut [f32], deviation: f32) {
    for j in 0..8 {
        let (u1, u2) = (1.0 - block[j], block[j + 8]);
        let radius = (-2.0 * u1.ln()).sqrt();
        let angle = 2.0 * std::f32::consts::PI * u2;
        block[j] = radius * angle.cos() * deviation;
        block[j + 8] = radius * angle.sin() * deviation;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_asked_deviation() {
        let t = Init::seeded(1).normal(&[64, 128], 0.02).unwrap();
        let v = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mean = v.iter().sum::<f32>() / v.len() as f32;
        let sd = (v.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / v.len() as f32).sqrt();
        assert!(mean.abs() < 1e-3 && (sd - 0.02).abs() < 1e-3, "{mean} {sd}");
    }

    /// Values printed by `scripts/torch_init_oracle.py` (torch 2.15.0, CPU).
    fn expect(drawn: &Tensor, want: &[f64]) {
        // torch's vectorised log, sin and cos differ from libm's by a few units in the last place.
        let got = drawn.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!(
                (f64::from(*got) - want).abs() < 1e-8 + 1e-6 * want.abs(),
                "{i}: {got:e} {want:e}"
            );
        }
    }

    /// First four, last four, sum and sum of absolute values.
    fn expect_ends(drawn: &Tensor, want: [f64; 10]) {
        let values = drawn.flatten_all().unwrap();
        let n = values.elem_count();
        let ends = Tensor::cat(
            &[
                values.narrow(0, 0, 4).unwrap(),
                values.narrow(0, n - 4, 4).unwrap(),
            ],
            0,
        )
        .unwrap();
        expect(&ends, &want[..8]);
        let all = values.to_vec1::<f32>().unwrap();
        let sum: f64 = all.iter().map(|v| f64::from(*v)).sum();
        let absolute: f64 = all.iter().map(|v| f64::from(v.abs())).sum();
        assert!(
            (sum - want[8]).abs() < 1e-6 && (absolute - want[9]).abs() < 1e-6,
            "{sum:e} {absolute:e}"
        );
    }

    #[test]
    fn normal_draws_are_those_of_torch() {
        let draw = |seed, shape: &[usize]| Init::seeded(seed).normal(shape, 0.02).unwrap();
        expect_ends(
            &draw(1, &[4, 512]),
            [
                -0.03051191755,
                -0.01500463579,
                -0.0130796181,
                -0.0321896933,
                -0.01821470633,
                0.01062527858,
                0.00311806309,
                0.003431306453,
                0.7080577551,
                33.6720652,
            ],
        );
        expect_ends(
            &draw(1, &[100]),
            [
                -0.03051191755,
                -0.01500463579,
                -0.0130796181,
                -0.0321896933,
                -0.002020695247,
                0.006867074873,
                -0.02140555531,
                -0.01748526283,
                -0.4053711473,
                1.539418773,
            ],
        );
        expect(
            &draw(1, &[3]),
            &[0.01322704367, 0.005338482093, 0.001233545132],
        );
        expect(
            &draw(2, &[17]),
            &[
                -0.02081602253,
                -0.009171215817,
                -0.0169600118,
                0.01053208672,
                0.0005983236479,
                -0.0009967606748,
                0.02130155824,
                0.01772073284,
                -0.01621972211,
                -0.009972648695,
                0.002577273874,
                0.05526133254,
                0.002809529193,
                0.02238203026,
                0.00630463101,
                0.03505552933,
                -0.01479135081,
            ],
        );
        expect(
            &draw(3, &[20]),
            &[
                -0.001532885828,
                0.007197630126,
                -0.01564033516,
                0.001430554665,
                0.02092045546,
                0.01044373959,
                -0.003336183028,
                0.00106066803,
                0.008092142642,
                0.01222599205,
                0.01520780753,
                -0.0006728651933,
                0.01995844766,
                0.009183608927,
                0.04872794077,
                -0.002936163452,
                0.009702280164,
                0.004104687367,
                0.006768563762,
                0.02705507912,
            ],
        );
        // Of a seed, torch takes the low 32 bits.
        expect(
            &draw((1 << 32) + 5, &[16]),
            &[
                0.03684659675,
                0.01037774328,
                -0.03423842415,
                -0.0340275839,
                0.0403883867,
                -0.005372288637,
                -0.002614350058,
                -0.02874827571,
                0.007815364748,
                -0.0003793552169,
                -0.02705374733,
                -0.0146163553,
                0.01975844428,
                -0.008388158865,
                -0.01169791631,
                -0.01564670168,
            ],
        );
    }

    #[test]
    fn uniform_draws_are_those_of_torch() {
        let draw = |seed, shape: &[usize]| Init::seeded(seed).uniform(shape, 0.125).unwrap();
        expect_ends(
            &draw(1, &[4, 512]),
            [
                0.06440789998,
                -0.05517227948,
                -0.02423268557,
                0.05867111683,
                0.04575809836,
                -0.1140266657,
                -0.1221702546,
                -0.1076355129,
                -0.0556883812,
                127.858349,
            ],
        );
        expect(
            &draw(2, &[17]),
            &[
                0.02867376804,
                -0.02974678576,
                0.03427858651,
                -0.006384730339,
                0.05339846015,
                0.02975909412,
                -0.01436683536,
                -0.1010578424,
                0.02853929996,
                -0.1106680781,
                0.01642850041,
                0.008307233453,
                -0.02748729289,
                0.1022121161,
                0.00834210217,
                0.0518348068,
                0.05289934576,
            ],
        );
        expect(
            &draw(3, &[5]),
            &[
                -0.1239341199,
                -0.09860765934,
                -0.05353938043,
                -0.1182612926,
                -0.007096409798,
            ],
        );
        let (weight, bias) = Init::seeded(4).linear(3, 32).unwrap();
        expect_ends(
            &weight,
            [
                0.02108543552,
                0.02089231834,
                -0.1444418132,
                -0.1025293544,
                0.1013895348,
                0.121690087,
                0.1562674642,
                -0.07379074395,
                1.717763741,
                9.344321534,
            ],
        );
        expect(&bias, &[-0.1719466895, 0.08657106012, 0.1705179513]);
    }

    #[test]
    fn half_a_pair_waits_for_the_next_small_draw() {
        let mut init = Init::seeded(7);
        expect(
            &init.normal(&[3], 0.02).unwrap(),
            &[-0.002935901983, 0.01572282612, 0.0189364329],
        );
        expect(
            &init.normal(&[2], 0.02).unwrap(),
            &[-0.02228688076, 0.03381580114],
        );
        let mut init = Init::seeded(7);
        expect(&init.normal(&[1], 0.02).unwrap(), &[-0.002935901983]);
        expect(
            &init.normal(&[16], 0.02).unwrap(),
            &[
                -0.003339920193,
                0.005702998955,
                -0.01282182988,
                -0.01787310839,
                -0.003528758418,
                0.03500344604,
                0.03860033676,
                0.01972223632,
                0.01417078078,
                0.02025510743,
                0.004607937299,
                0.02180330269,
                -0.01874167845,
                0.01729878783,
                -0.007383607328,
                0.01585887186,
            ],
        );
        expect(
            &init.uniform(&[2], 0.5).unwrap(),
            &[0.3828775883, -0.08682727814],
        );
        expect(&init.normal(&[1], 0.02).unwrap(), &[0.01572282612]);
    }
}
