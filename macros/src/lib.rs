//! The attributes of [`regatta`](https://docs.rs/regatta); use them through that crate.

#![warn(missing_docs)]

mod actor;
mod function;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{ToTokens, format_ident, quote};
use syn::parse::Parse;
use syn::{DeriveInput, Error, Expr, Item, ItemFn, ItemImpl, LitStr, Token, Type, parenthesized, parse_macro_input};

/// Lets the program's executable be a worker: put it on `main`.
///
/// A process that a session has started as a worker, or that is to join a cluster as one, never gets to the body. Above
/// `#[tokio::main]` it works on an `async fn main` too, and a worker never starts that runtime.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    expand_main(&arguments.into(), function).unwrap_or_else(Error::into_compile_error).into()
}

/// Registers a UDF, so that workers find it: put it on `impl Udf for YourType` (or `AsyncUdf`, `Aggregate`, `GpuUdf`), or on a function.
///
/// # On a generic implementation
///
/// Each type that is used travels under its own name, so they are listed:
///
/// ```text
/// #[regatta::udf(types(Scale<f32>, Scale<f64>))]
/// impl<T: Number> Udf for Scale<T> { .. }
/// ```
///
/// # On a function of values: row-wise
///
/// The function stays callable, and its name is also a type with `on(inputs)` and `pool()`:
///
/// ```text
/// #[regatta::udf]
/// fn normalise(s: &str) -> Option<String> {
///     Some(s.trim().to_lowercase()).filter(|s| !s.is_empty())
/// }
/// assert_eq!(normalise(" X "), Some("x".to_owned()));
/// let query = frame.with_column(normalise::on([col("s")]).alias("clean"));
/// ```
///
/// It takes one or more of `bool`, `i8`, `i16`, `i32`, `i64`, `u32`, `u64`, `f32`, `f64`, `&str` and `String`, or an `Option`
/// of one to see nulls: where an argument that is no `Option` is null, the result is null and the function is not called.
/// It returns one of these, a `Vec` or an `Option` of one, or a `Result` of either with any error. A `Vec` becomes a list:
/// `LazyFrameExt::generate` makes rows of it. The columns must be of exactly these
/// dtypes; while a query is planned, an error says which cast to add.
///
/// An `async fn` has many rows in flight at once: see `AsyncUdf`.
///
/// # On a function of columns: batch-wise
///
/// With `dtype = ...` the function takes `&Series`, `&Column` or `&ArrayRef` (arrow-rs), and returns one of these or a
/// `Result` of one: as many rows as it was given, of that dtype.
///
/// ```text
/// #[regatta::udf(dtype = DataType::Float64)]
/// fn ratio(a: &Series, b: &Series) -> UdfResult<Series> {
///     Ok((&a.cast(&DataType::Float64)? / &b.cast(&DataType::Float64)?)?)
/// }
/// ```
///
/// # The context
///
/// A function whose first argument is `&Context` is told where it runs, and reports numbers there; the columns follow it:
///
/// ```text
/// #[regatta::udf]
/// fn tokens(cx: &Context, text: &str) -> u64 {
///     let tokens = text.split_whitespace().count() as u64;
///     cx.metrics().count("tokens", tokens);
///     tokens
/// }
/// ```
///
/// # The promise
///
/// `#[regatta::udf(deterministic)]` promises that results depend on the arguments and inputs alone: not on the time, on random
/// numbers, on what a server says today, or on which rows came before. What is lost with a worker is then made again without
/// others who have read some of it; without the promise those run again, or the query fails if they had been given out.
/// A promise that is not kept makes wrong answers.
///
/// # The name
///
/// The UDF travels under its path in its crate, or under what `#[regatta::udf(name = "...")]` says.
#[proc_macro_attribute]
pub fn udf(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let (mut name, mut dtype): (Option<LitStr>, Option<Expr>) = (None, None);
    let mut deterministic = false;
    let mut instances: Vec<Type> = Vec::new();
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("name") {
            name = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("dtype") {
            dtype = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("types") {
            let content;
            parenthesized!(content in meta.input);
            instances = content.parse_terminated(Type::parse, Token![,])?.into_iter().collect();
        } else if meta.path.is_ident("deterministic") {
            deterministic = true;
        } else {
            let text = "expected `name = \"...\"`, `dtype = DataType::...`, `types(...)` or `deterministic`";
            return Err(meta.error(text));
        }
        Ok(())
    });
    parse_macro_input!(arguments with parser);
    let expanded = match (parse_macro_input!(item as Item), dtype) {
        (Item::Fn(function), dtype) if instances.is_empty() => {
            function::expand(name.as_ref(), dtype.as_ref(), deterministic, &function)
        }
        (Item::Fn(function), _) => Err(Error::new_spanned(
            &function.sig.ident,
            "`types` is for a generic `impl Udf`: a function has no parameters",
        )),
        (Item::Impl(implementation), None) => expand_udf(name.as_ref(), &instances, deterministic, &implementation),
        (Item::Impl(_), Some(dtype)) => {
            Err(Error::new_spanned(dtype, "`dtype` is for functions over columns: here `output` says the dtype"))
        }
        (other, _) => Err(Error::new_spanned(
            other,
            "#[regatta::udf] goes on `impl Udf for YourType` (or AsyncUdf, Aggregate, GpuUdf), or on a `fn`",
        )),
    };
    expanded.unwrap_or_else(Error::into_compile_error).into()
}

/// Declares a message between actors: its number, which is its own among the messages of an actor, and its reply.
///
/// ```text
/// #[derive(Serialize, Deserialize, regatta::Message)]
/// #[message(id = 0x0105, reply = Duration)]
/// struct Acquire(u32);
/// ```
///
/// Without `reply` it is answered with `()`.
#[proc_macro_derive(Message, attributes(message))]
pub fn message(item: TokenStream) -> TokenStream {
    derive_message(item, &quote!(::regatta::actor))
}

/// `regatta::Message` for users of `regatta-remote` alone.
#[proc_macro_derive(RemoteMessage, attributes(message))]
pub fn remote_message(item: TokenStream) -> TokenStream {
    derive_message(item, &quote!(::regatta_remote))
}

/// Registers an actor, so that a session can start it on any worker: put it on the struct, with the messages that other
/// processes may send.
///
/// ```text
/// #[regatta::actor(Acquire, Reset)]
/// #[derive(Serialize, Deserialize)]
/// struct RateLimiter { per_second: u32 }
/// ```
///
/// The actor's type travels under its path in its crate, or under what `name = "..."` says.
#[proc_macro_attribute]
pub fn actor(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = parse_macro_input!(arguments as actor::Arguments);
    let item = parse_macro_input!(item as Item);
    actor::expand_actor(&arguments, &item).unwrap_or_else(Error::into_compile_error).into()
}

fn derive_message(item: TokenStream, home: &Tokens) -> TokenStream {
    let input = parse_macro_input!(item as DeriveInput);
    actor::expand_message(&input, home).unwrap_or_else(Error::into_compile_error).into()
}

fn expand_main(arguments: &Tokens, mut function: ItemFn) -> Result<Tokens, Error> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(arguments, "#[regatta::main] takes no arguments"));
    }
    if function.sig.ident != "main" || !function.sig.inputs.is_empty() {
        return Err(Error::new_spanned(&function.sig, "#[regatta::main] goes on `fn main()`"));
    }
    if function.sig.asyncness.is_some() && function.attrs.is_empty() {
        return Err(Error::new_spanned(
            &function.sig,
            "an `async fn main` needs a runtime: put #[tokio::main] below #[regatta::main]",
        ));
    }
    let (visibility, output) = (function.vis.clone(), function.sig.output.clone());
    let inner = format_ident!("__regatta_main");
    function.sig.ident = inner.clone();
    Ok(quote! {
        #function

        #visibility fn main() #output {
            ::regatta::become_worker_if_started_as_one();
            #inner()
        }
    })
}

/// The traits that a UDF may implement, and what makes one of each.
const TRAITS: [(&str, &str); 4] =
    [("Udf", "udf"), ("AsyncUdf", "async_udf"), ("Aggregate", "aggregate"), ("GpuUdf", "gpu_udf")];

fn expand_udf(
    name: Option<&LitStr>,
    instances: &[Type],
    deterministic: bool,
    implementation: &ItemImpl,
) -> Result<Tokens, Error> {
    let of_trait = implementation.trait_.as_ref().and_then(|(_, path, _)| path.segments.last());
    let make =
        of_trait.and_then(|of| TRAITS.iter().find(|(udf, _)| of.ident == udf)).map(|(_, make)| format_ident!("{make}"));
    let Some(make) = make else {
        return Err(Error::new_spanned(
            implementation.self_ty.as_ref(),
            "#[regatta::udf] goes on `impl Udf for YourType`, or on one of AsyncUdf, Aggregate or GpuUdf",
        ));
    };
    let types = match (implementation.generics.params.is_empty(), instances) {
        (true, []) => std::slice::from_ref(implementation.self_ty.as_ref()),
        (true, [first, ..]) => {
            return Err(Error::new_spanned(first, "`types` is for a generic UDF: this one has no parameters"));
        }
        (false, []) => {
            let text = "each type of a generic UDF travels under a name of its own: list those that are used, \
                        #[regatta::udf(types(Scale<f32>, Scale<f64>))]";
            return Err(Error::new_spanned(&implementation.generics, text));
        }
        (false, types) => types,
    };
    if let (Some(name), [_, second, ..]) = (name, types) {
        let text = format!("{} would have the same name as the type before it: leave `name` out", quote!(#second));
        return Err(Error::new_spanned(name, text));
    }
    let registered = types.iter().map(|ty| {
        let name = udf_name(name, ty)?;
        Ok(quote! {
            impl ::regatta::udf::Registered for #ty {
                const NAME: &'static str = #name;
                const DETERMINISTIC: bool = #deterministic;

                fn erase(self) -> ::regatta::udf::Erased {
                    ::regatta::udf::Erased::#make(self)
                }
            }

            ::regatta::udf::inventory::submit! { ::regatta::udf::UdfEntry::of::<#ty>() }
        })
    });
    let registered = registered.collect::<Result<Vec<_>, Error>>()?;
    Ok(quote! {
        #implementation

        #(#registered)*
    })
}

/// The name under which a UDF is registered.
fn udf_name(name: Option<&LitStr>, item: &impl ToTokens) -> Result<Tokens, Error> {
    match name {
        Some(name) if name.value().is_empty() || name.value().contains('!') => {
            Err(Error::new_spanned(name, "a UDF's name is not empty and has no `!`"))
        }
        Some(name) => Ok(quote!(#name)),
        None => {
            // As people write a type: `Scale<f32>`, not `Scale < f32 >`.
            let item = item.to_token_stream().to_string().replace(' ', "");
            Ok(quote!(::core::concat!(::core::module_path!(), "::", #item)))
        }
    }
}
