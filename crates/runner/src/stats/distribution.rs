//! The few distribution functions the tests and intervals need. Formulas: *Numerical Recipes*, 3rd edition, sections
//! 6.1 (log gamma, Lanczos), 6.2 (incomplete gamma) and 6.4 (incomplete beta).

/// Lanczos' coefficients for g = 7, n = 9 (Godfrey), good to about 1e-15.
const LANCZOS: [f64; 9] = [
    0.999_999_999_999_809_9,
    676.520_368_121_885_1,
    -1_259.139_216_722_402_8,
    771.323_428_777_653_1,
    -176.615_029_162_140_6,
    12.507_343_278_686_905,
    -0.138_571_095_265_720_12,
    9.984_369_578_019_572e-6,
    1.505_632_735_149_311_6e-7,
];

/// Natural logarithm of the gamma function for positive `x`.
pub(super) fn ln_gamma(x: f64) -> f64 {
    let x = x - 1.0;
    let t = x + 7.5;
    let series = LANCZOS
        .iter()
        .enumerate()
        .skip(1)
        .fold(LANCZOS[0], |sum, (i, c)| sum + c / (x + i as f64));
    0.5 * (2.0 * std::f64::consts::PI).ln() + (x + 0.5) * t.ln() - t + series.ln()
}

/// Natural logarithm of the binomial coefficient `n` over `k`.
pub(super) fn ln_choose(n: u64, k: u64) -> f64 {
    ln_gamma(n as f64 + 1.0) - ln_gamma(k as f64 + 1.0) - ln_gamma((n - k) as f64 + 1.0)
}

/// Upper tail of the standard normal distribution at `z`.
pub(super) fn normal_upper(z: f64) -> f64 {
    let tail = 0.5 * gamma_upper_half(z * z / 2.0);
    if z >= 0.0 { tail } else { 1.0 - tail }
}

/// Upper tail of the chi-squared distribution with one degree of freedom at `x`.
pub(super) fn chi_squared_upper(x: f64) -> f64 {
    gamma_upper_half(x / 2.0)
}

/// Regularized upper incomplete gamma function Q(1/2, x), which is erfc(sqrt(x)).
fn gamma_upper_half(x: f64) -> f64 {
    const A: f64 = 0.5;
    if x <= 0.0 {
        return 1.0;
    }
    let front = (-x + A * x.ln() - ln_gamma(A)).exp();
    if x < A + 1.0 {
        // Series for the lower half.
        let (mut term, mut sum, mut n) = (1.0 / A, 1.0 / A, A);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= x / n;
            sum += term;
        }
        1.0 - front * sum
    } else {
        // Lentz's continued fraction for the upper half.
        let mut b = x + 1.0 - A;
        let (mut c, mut d) = (1.0 / TINY, 1.0 / b);
        let mut h = d;
        for i in 1..500 {
            let an = -f64::from(i) * (f64::from(i) - A);
            b += 2.0;
            d = 1.0 / nonzero(an * d + b);
            c = nonzero(b + an / c);
            h *= d * c;
            if (d * c - 1.0).abs() < 1e-16 {
                break;
            }
        }
        front * h
    }
}

const TINY: f64 = 1e-300;

fn nonzero(x: f64) -> f64 {
    if x.abs() < TINY { TINY } else { x }
}

/// Regularized incomplete beta function I_x(a, b).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

/// Lentz's continued fraction for the incomplete beta function.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let (mut c, mut d) = (1.0, 1.0 / nonzero(1.0 - (a + b) * x / (a + 1.0)));
    let mut h = d;
    for m in 1..1000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / nonzero(1.0 + even * d);
        c = nonzero(1.0 + even / c);
        h *= d * c;
        d = 1.0 / nonzero(1.0 + odd * d);
        c = nonzero(1.0 + odd / c);
        h *= d * c;
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    h
}

/// Upper tail of Student's t distribution with `freedom` degrees of freedom at `t`.
pub fn student_t_upper(t: f64, freedom: f64) -> f64 {
    let tail = 0.5 * incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t));
    if t >= 0.0 { tail } else { 1.0 - tail }
}

/// The `t` below which Student's t distribution with `freedom` degrees of freedom has `probability`.
///
/// # Panics
/// When `probability` is not inside (0, 1) or `freedom` is not positive.
pub fn student_t_quantile(probability: f64, freedom: f64) -> f64 {
    assert!(
        probability > 0.0 && probability < 1.0,
        "a probability lies inside (0, 1), not {probability}"
    );
    assert!(
        freedom > 0.0,
        "degrees of freedom are positive, not {freedom}"
    );
    if probability < 0.5 {
        return -student_t_quantile(1.0 - probability, freedom);
    }
    let upper = 1.0 - probability;
    let (mut low, mut high) = (0.0, 1.0);
    while student_t_upper(high, freedom) > upper {
        high *= 2.0;
    }
    // Bisection to the last bit: fifty-odd cheap steps, no tuning.
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return middle;
        }
        if student_t_upper(middle, freedom) > upper {
            low = middle
        } else {
            high = middle
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::assert_close;
    use super::*;

    #[test]
    fn t_tails_agree_with_scipy() {
        assert_close(student_t_upper(2.0, 2.0), 0.09175170953613698, 1e-14);
        assert_close(student_t_upper(0.5, 7.0), 0.3162035678446422, 1e-14);
        assert_close(student_t_upper(-3.25, 4.0), 0.984312132889923, 1e-14);
        assert_close(
            student_t_upper(12.0, 30.0) / 2.7900927075996303e-13,
            1.0,
            1e-10,
        );
    }

    #[test]
    fn t_quantiles_agree_with_scipy() {
        for (freedom, want) in [
            (1.0, 12.706204736174694),
            (2.0, 4.302652729749462),
            (4.0, 2.7764451051977934),
            (10.0, 2.228138851986274),
            (100.0, 1.9839715185235518),
        ] {
            assert_close(student_t_quantile(0.975, freedom), want, 1e-11);
            assert_close(student_t_quantile(0.025, freedom), -want, 1e-11);
        }
    }

    #[test]
    fn normal_and_chi_squared_tails_are_erfc() {
        // erfc(0.5) and erfc(3), from Python's math module.
        assert_close(chi_squared_upper(0.5), 0.4795001221869535, 1e-14);
        assert_close(chi_squared_upper(18.0) / 2.2090496998585438e-05, 1.0, 1e-12);
        assert_close(2.0 * normal_upper(0.5f64.sqrt()), 0.4795001221869535, 1e-14);
        assert_close(normal_upper(-1.0) + normal_upper(1.0), 1.0, 1e-15);
        assert_eq!(normal_upper(0.0), 0.5);
    }

    #[test]
    fn ln_choose_is_pascals_triangle() {
        assert_close(ln_choose(10, 3).exp(), 120.0, 1e-12);
        assert_close(ln_choose(52, 5).exp(), 2_598_960.0, 1e-12);
        assert_close(ln_choose(7, 0), 0.0, 1e-13);
    }
}
