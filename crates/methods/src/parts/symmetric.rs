//! Eigenvalues and eigenvectors of a symmetric matrix: Householder's reduction to three diagonals, then the implicit QL method.
//!
//! The public-domain routines `tred2` and `tql2` of EISPACK, on columns that lie side by side, so that every inner loop runs
//! over memory in order. About `9 n^3` operations; the result is the same on every run.

use candle_core::{Result, bail};

/// What a symmetric matrix is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Eigen {
    /// `n`, in no order.
    pub(crate) values: Vec<f64>,
    /// `n` of `n`, one after the other, of unit length.
    pub(crate) vectors: Vec<f64>,
}

/// Of the `n` by `n` matrix `a`, of which the lower half is read.
///
/// # Errors
/// A matrix with a number that is not finite.
pub(crate) fn eigen(a: &[f64], n: usize) -> Result<Eigen> {
    if a.len() != n * n || n == 0 {
        bail!("{} numbers are no matrix of {n} rows", a.len());
    }
    if a.iter().any(|x| !x.is_finite()) {
        bail!("a matrix with numbers that are not finite has no eigenvalues");
    }
    // `v[j * n + k]` is row `k` of column `j`.
    let mut v = vec![0.0; n * n];
    for column in 0..n {
        for row in column..n {
            v[column * n + row] = a[row * n + column];
            v[row * n + column] = a[row * n + column];
        }
    }
    let (mut d, mut e) = (vec![0.0; n], vec![0.0; n]);
    reduce(&mut v, &mut d, &mut e);
    diagonalise(&mut v, &mut d, &mut e);
    Ok(Eigen {
        values: d,
        vectors: v,
    })
}

/// Leaves the diagonal in `d`, what stands beside it in `e[1..]`, and the turn that got there in `v`.
fn reduce(v: &mut [f64], d: &mut [f64], e: &mut [f64]) {
    let n = d.len();
    let at = |row: usize, column: usize| column * n + row;
    for j in 0..n {
        d[j] = v[at(n - 1, j)];
    }
    for i in (1..n).rev() {
        let scale: f64 = d[..i].iter().map(|x| x.abs()).sum();
        let mut h = 0.0;
        if scale == 0.0 {
            e[i] = d[i - 1];
            for j in 0..i {
                d[j] = v[at(i - 1, j)];
                v[at(i, j)] = 0.0;
                v[at(j, i)] = 0.0;
            }
        } else {
            for x in &mut d[..i] {
                *x /= scale;
                h += *x * *x;
            }
            let f = d[i - 1];
            let g = if f > 0.0 { -h.sqrt() } else { h.sqrt() };
            e[i] = scale * g;
            h -= f * g;
            d[i - 1] = f - g;
            e[..i].fill(0.0);
            for j in 0..i {
                let f = d[j];
                v[at(j, i)] = f;
                let mut g = e[j] + v[at(j, j)] * f;
                let column = &v[at(j + 1, j)..at(i, j)];
                let below = e[j + 1..i].iter_mut().zip(&d[j + 1..i]);
                for (x, (e, d)) in column.iter().zip(below) {
                    g += x * d;
                    *e += x * f;
                }
                e[j] = g;
            }
            let mut f = 0.0;
            for j in 0..i {
                e[j] /= h;
                f += e[j] * d[j];
            }
            let half = f / (h + h);
            for j in 0..i {
                e[j] -= half * d[j];
            }
            for j in 0..i {
                let (f, g) = (d[j], e[j]);
                for k in j..i {
                    v[at(k, j)] -= f * e[k] + g * d[k];
                }
                d[j] = v[at(i - 1, j)];
                v[at(i, j)] = 0.0;
            }
        }
        d[i] = h;
    }
    for i in 0..n - 1 {
        v[at(n - 1, i)] = v[at(i, i)];
        v[at(i, i)] = 1.0;
        let h = d[i + 1];
        let (before, next) = v.split_at_mut(at(0, i + 1));
        let next = &mut next[..=i];
        if h != 0.0 {
            for k in 0..=i {
                d[k] = next[k] / h;
            }
            for j in 0..=i {
                let column = &mut before[at(0, j)..=at(i, j)];
                let g: f64 = next.iter().zip(&*column).map(|(a, b)| a * b).sum();
                for (x, d) in column.iter_mut().zip(&d[..]) {
                    *x -= g * d;
                }
            }
        }
        next.fill(0.0);
    }
    for j in 0..n {
        d[j] = v[at(n - 1, j)];
        v[at(n - 1, j)] = 0.0;
    }
    v[at(n - 1, n - 1)] = 1.0;
    e[0] = 0.0;
}

/// Turns what [`reduce`] left until nothing stands beside the diagonal.
fn diagonalise(v: &mut [f64], d: &mut [f64], e: &mut [f64]) {
    let n = d.len();
    e.rotate_left(1);
    e[n - 1] = 0.0;
    let (mut shift, mut largest) = (0.0, 0f64);
    for l in 0..n {
        largest = largest.max(d[l].abs() + e[l].abs());
        let small = f64::EPSILON * largest;
        // The last is zero, so there is one.
        let m = (l..n).find(|m| e[*m].abs() <= small).unwrap_or(n - 1);
        while e[l].abs() > small {
            let g = d[l];
            let p = (d[l + 1] - g) / (2.0 * e[l]);
            let r = p.hypot(1.0) * if p < 0.0 { -1.0 } else { 1.0 };
            d[l] = e[l] / (p + r);
            d[l + 1] = e[l] * (p + r);
            let (next, h) = (d[l + 1], g - d[l]);
            for x in &mut d[l + 2..] {
                *x -= h;
            }
            shift += h;
            let beside = e[l + 1];
            let mut p = d[m];
            let (mut c, mut c2, mut c3) = (1.0, 1.0, 1.0);
            let (mut s, mut s2) = (0.0, 0.0);
            for i in (l..m).rev() {
                (c3, c2, s2) = (c2, c, s);
                let (g, h) = (c * e[i], c * p);
                let r = p.hypot(e[i]);
                e[i + 1] = s * r;
                (s, c) = (e[i] / r, p / r);
                p = c * d[i] - s * g;
                d[i + 1] = h + s * (c * g + s * d[i]);
                let (one, other) = v[i * n..(i + 2) * n].split_at_mut(n);
                for (x, y) in one.iter_mut().zip(other) {
                    let (a, b) = (*x, *y);
                    *y = s * a + c * b;
                    *x = c * a - s * b;
                }
            }
            p = -s * s2 * c3 * beside * e[l] / next;
            e[l] = s * p;
            d[l] = c * p;
        }
        d[l] += shift;
        e[l] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_of_two_rows_has_the_values_one_computes_by_hand() {
        let found = eigen(&[2.0, 1.0, 1.0, 2.0], 2).unwrap();
        let mut values = found.values.clone();
        values.sort_by(f64::total_cmp);
        assert!((values[0] - 1.0).abs() < 1e-15 && (values[1] - 3.0).abs() < 1e-15);
        for j in 0..2 {
            let [x, y] = [found.vectors[2 * j], found.vectors[2 * j + 1]];
            let half = 0.5f64.sqrt();
            assert!((x.abs() - half).abs() < 1e-15 && (y.abs() - half).abs() < 1e-15);
            assert_eq!(x * y > 0.0, found.values[j] > 2.0);
        }
    }

    #[test]
    fn vectors_are_orthogonal_and_give_the_matrix_back() {
        for n in [1, 2, 3, 7, 40] {
            let mut draws = 1u64;
            let mut a = vec![0.0; n * n];
            for row in 0..n {
                for column in 0..=row {
                    draws = draws
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let x = (draws >> 33) as f64 / 2f64.powi(31) - 0.5;
                    a[row * n + column] = x;
                    a[column * n + row] = x;
                }
            }
            let found = eigen(&a, n).unwrap();
            let vector = |j: usize| &found.vectors[j * n..(j + 1) * n];
            for i in 0..n {
                for j in 0..n {
                    let dot: f64 = vector(i).iter().zip(vector(j)).map(|(a, b)| a * b).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12, "{n}");
                    let parts = (0..n).map(|k| found.values[k] * vector(k)[i] * vector(k)[j]);
                    assert!((parts.sum::<f64>() - a[i * n + j]).abs() < 1e-12, "{n}");
                }
            }
        }
    }

    #[test]
    fn diagonal_matrices_and_those_that_are_not_finite_come_to_an_end() {
        let found = eigen(&[3.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 1.0], 3).unwrap();
        let mut values = found.values;
        values.sort_by(f64::total_cmp);
        assert_eq!(values, [1.0, 3.0, 3.0]);
        assert!(eigen(&[f64::NAN], 1).is_err());
        assert!(eigen(&[1.0, 2.0], 2).is_err());
    }
}
