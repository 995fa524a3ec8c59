//! The attributes of [`regatta`](https://docs.rs/regatta); use them through that crate.

#![warn(missing_docs)]

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote};
use syn::{Error, ItemFn, ItemImpl, LitStr, Type, parse_macro_input};

/// Lets the program's executable be a worker: put it on `main`.
///
/// A process that a session has started as a worker never gets to the body. Above `#[tokio::main]` it works on an
/// `async fn main` too.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    expand_main(&arguments.into(), function).unwrap_or_else(Error::into_compile_error).into()
}

/// Registers a UDF, so that workers find it: put it on `impl Udf for YourType`.
///
/// Its name is the type's path in its crate, or what `#[regatta::udf(name = "...")]` says.
#[proc_macro_attribute]
pub fn udf(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut name: Option<LitStr> = None;
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("name") {
            name = Some(meta.value()?.parse()?);
            return Ok(());
        }
        Err(meta.error("expected `name = \"...\"`"))
    });
    parse_macro_input!(arguments with parser);
    let implementation = parse_macro_input!(item as ItemImpl);
    expand_udf(name, &implementation).unwrap_or_else(Error::into_compile_error).into()
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

fn expand_udf(name: Option<LitStr>, implementation: &ItemImpl) -> Result<Tokens, Error> {
    let is_udf = implementation
        .trait_
        .as_ref()
        .is_some_and(|(_, path, _)| path.segments.last().is_some_and(|s| s.ident == "Udf"));
    if !is_udf {
        return Err(Error::new_spanned(
            implementation.self_ty.as_ref(),
            "#[regatta::udf] goes on `impl Udf for YourType`",
        ));
    }
    if !implementation.generics.params.is_empty() {
        let text = "a generic UDF cannot be registered, because each type would need a name of its own: implement Udf for a concrete type";
        return Err(Error::new_spanned(&implementation.generics, text));
    }
    let ty: &Type = &implementation.self_ty;
    let name = match name {
        Some(name) if name.value().is_empty() || name.value().contains('!') => {
            return Err(Error::new_spanned(&name, "a UDF's name is not empty and has no `!`"));
        }
        Some(name) => quote!(#name),
        None => quote!(::core::concat!(::core::module_path!(), "::", ::core::stringify!(#ty))),
    };
    Ok(quote! {
        #implementation

        impl ::regatta::udf::Registered for #ty {
            const NAME: &'static str = #name;
        }

        ::regatta::udf::inventory::submit! { ::regatta::udf::UdfEntry::of::<#ty>() }
    })
}
