//! What is kept of a method: to score again with it, or to go on training where it stopped.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, bail};

use crate::method::Method;

/// Everything of a method that training changes: its parameters, then [`Method::state`], as they are now; later steps
/// do not move what is given here.
///
/// # Errors
/// Those of candle.
pub fn kept(method: &dyn Method) -> Result<Vec<(String, Tensor)>> {
    let parameters = method.parameters().into_iter();
    let mut all = parameters
        .map(|(name, var)| Ok((name, var.as_detached_tensor().copy()?)))
        .collect::<Result<Vec<_>>>()?;
    all.extend(method.state());
    Ok(all)
}

/// Puts back what [`kept`] gave, into a method that is built anew and bound to the classes that it learned last.
///
/// # Errors
/// Names or shapes that are not its own.
pub fn put_back(method: &mut dyn Method, kept: BTreeMap<String, Tensor>) -> Result<()> {
    // Of a method without parameters before it has seen the shots, all is state.
    let own: Vec<String> = method.parameters().into_iter().map(|(n, _)| n).collect();
    let (values, state) = kept.into_iter().partition(|(name, _)| own.contains(name));
    load_parameters(method, &values)?;
    method.restore(&state)
}

/// Writes named values over a method's parameters.
///
/// # Errors
/// Names the parameters that are missing, unknown or of another shape, all at once.
pub fn load_parameters(method: &dyn Method, values: &BTreeMap<String, Tensor>) -> Result<()> {
    let parameters = method.parameters();
    let mut wrong = Vec::new();
    for (name, var) in &parameters {
        match values.get(name) {
            None => wrong.push(format!("{name} is missing")),
            Some(v) if v.dims() != var.dims() => {
                wrong.push(format!(
                    "{name} is {:?}, this method has {:?}",
                    v.dims(),
                    var.dims()
                ));
            }
            Some(_) => {}
        }
    }
    for name in values
        .keys()
        .filter(|n| !parameters.iter().any(|(p, _)| p == *n))
    {
        wrong.push(format!("{name} is no parameter of this method"));
    }
    if !wrong.is_empty() {
        bail!("prompts do not fit: {}", wrong.join("; "));
    }
    for (name, var) in &parameters {
        var.set(&values[name].to_dtype(var.dtype())?)?;
    }
    Ok(())
}
