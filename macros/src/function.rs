//! A UDF from a plain function: a type of the function's name, which is the UDF, beside the function.

use proc_macro2::{Span, TokenStream as Tokens};
use quote::{format_ident, quote};
use syn::{Error, Expr, FnArg, Ident, ItemFn, LitStr, Pat, PatType, ReturnType, Token, Type};

use crate::udf_name;

pub(crate) fn expand(
    name: Option<&LitStr>,
    dtype: Option<&Expr>,
    deterministic: bool,
    function: &ItemFn,
) -> Result<Tokens, Error> {
    let arguments = check(function)?;
    let ident = &function.sig.ident;
    let registered = udf_name(name, ident)?;
    let form = Form::of(function);
    let body = match dtype {
        Some(dtype) => batch_wise(ident, &form, dtype, &arguments)?,
        None => row_wise(ident, &form, function, &arguments)?,
    };
    let Form { implements, erased, sync, .. } = form;
    let by_row = (function.sig.asyncness.is_some() && dtype.is_none()).then(|| {
        quote!(
            const BY_ROW: bool = true;
        )
    });
    let visibility = &function.vis;
    let cfg: Vec<_> = function.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg")).collect();
    let about = format!("The UDF that calls the function [`{ident}`](fn@{ident}) on columns.");
    Ok(quote! {
        #function

        #(#cfg)*
        #[doc = #about]
        #[allow(non_camel_case_types, clippy::empty_structs_with_brackets, reason = "it has the function's name")]
        #[derive(
            ::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug,
            ::regatta::udf::serde::Serialize, ::regatta::udf::serde::Deserialize,
        )]
        #[serde(crate = "::regatta::udf::serde")]
        #visibility struct #ident {}

        #(#cfg)*
        #[allow(dead_code, reason = "of on and pool a program may use one")]
        const _: () = {
            impl #ident {
                /// The function applied to these columns, by one replica. The result is named after the first.
                #visibility fn on<E: ::core::convert::AsRef<[::regatta::polars::prelude::Expr]>>(
                    inputs: E,
                ) -> ::regatta::polars::prelude::Expr {
                    Self::pool().on(inputs)
                }

                /// A pool of replicas that call the function; configure it, then call its `on`.
                #visibility fn pool() -> ::regatta::udf::Pool<Self> {
                    ::regatta::udf::#implements::pool(Self {})
                }
            }

            impl ::regatta::udf::#implements for #ident {
                type State = ();

                #by_row

                #sync fn start(&self, _: &mut ::regatta::udf::Start) -> ::regatta::udf::UdfResult<()> {
                    ::core::result::Result::Ok(())
                }

                #body
            }

            impl ::regatta::udf::Registered for #ident {
                const NAME: &'static str = #registered;
                const DETERMINISTIC: bool = #deterministic;

                fn erase(self) -> ::regatta::udf::Erased {
                    ::regatta::udf::Erased::#erased(self)
                }
            }

            ::regatta::udf::inventory::submit! { ::regatta::udf::UdfEntry::of::<#ident>() }
        };
    })
}

/// What differs between a function and an async one.
struct Form {
    /// The trait.
    implements: Ident,
    erased: Ident,
    /// `async`, or nothing.
    sync: Option<Token![async]>,
    /// The type of the state in `run`.
    state: Tokens,
    map: Ident,
    /// `.await`, or nothing.
    wait: Option<Tokens>,
}

impl Form {
    fn of(function: &ItemFn) -> Self {
        let name = |name| Ident::new(name, Span::call_site());
        match function.sig.asyncness {
            None => Self {
                implements: name("Udf"),
                erased: name("udf"),
                sync: None,
                state: quote!(&mut ()),
                map: name("map"),
                wait: None,
            },
            sync => Self {
                implements: name("AsyncUdf"),
                erased: name("async_udf"),
                sync,
                state: quote!(&()),
                map: name("map_async"),
                wait: Some(quote!(.await)),
            },
        }
    }
}

/// Types that a type of the same name would hide from the rest of the module.
const PRIMITIVES: [&str; 17] = [
    "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "str", "u8", "u16", "u32", "u64", "u128",
    "usize",
];

/// What a function is called with.
struct Arguments<'a> {
    /// The context, with a comma, or nothing.
    context: Option<Tokens>,
    columns: Vec<&'a PatType>,
}

/// What no form allows, and the arguments.
fn check(function: &ItemFn) -> Result<Arguments<'_>, Error> {
    let signature = &function.sig;
    if let Some(token) = &signature.unsafety {
        return Err(Error::new_spanned(token, "an unsafe fn cannot be a UDF: nobody would check what it asks for"));
    }
    if let Some(token) = &signature.abi {
        return Err(Error::new_spanned(token, "an extern fn cannot be a UDF: make it a plain fn"));
    }
    if !signature.generics.params.is_empty() {
        let text = "a generic function cannot be a UDF, because each instance would need a name of its own: write the types out";
        return Err(Error::new_spanned(&signature.generics, text));
    }
    if PRIMITIVES.iter().any(|primitive| signature.ident == primitive) {
        let text = "the UDF would be a type of this name, which hides the primitive type: name the function otherwise";
        return Err(Error::new_spanned(&signature.ident, text));
    }
    let mut columns = signature.inputs.iter().map(check_argument).collect::<Result<Vec<_>, _>>()?;
    let context = match columns.first() {
        Some(first) if is_context(first)? => {
            columns.remove(0);
            Some(quote!(batch.context(),))
        }
        _ => None,
    };
    for column in &columns {
        if is_context(column)? {
            return Err(Error::new_spanned(column, "the context is taken once, before the columns"));
        }
    }
    if columns.is_empty() {
        let text = "a UDF takes at least one column: give the function an argument";
        return Err(Error::new_spanned(&signature.ident, text));
    }
    Ok(Arguments { context, columns })
}

/// Whether the argument is the context, as functions take it.
fn is_context(argument: &PatType) -> Result<bool, Error> {
    let (context, shared) = match &*argument.ty {
        Type::Reference(reference) => (last_is(&reference.elem, &["Context"]), reference.mutability.is_none()),
        other => (last_is(other, &["Context"]), false),
    };
    match (context, shared) {
        (true, false) => Err(Error::new_spanned(&argument.ty, "a function takes the context as `&Context`")),
        (context, _) => Ok(context),
    }
}

fn check_argument(argument: &FnArg) -> Result<&PatType, Error> {
    match argument {
        FnArg::Typed(typed) if matches!(*typed.ty, Type::ImplTrait(_)) => {
            Err(Error::new_spanned(&typed.ty, "`impl Trait` makes the function generic: write the type out"))
        }
        FnArg::Typed(typed) => Ok(typed),
        FnArg::Receiver(receiver) => {
            let text =
                "a method cannot be a UDF: put #[regatta::udf] on `impl Udf for YourType`, or on a free function";
            Err(Error::new_spanned(receiver, text))
        }
    }
}

fn row_wise(ident: &Ident, form: &Form, function: &ItemFn, arguments: &Arguments<'_>) -> Result<Tokens, Error> {
    let Arguments { context, columns: arguments } = arguments;
    for argument in arguments {
        if let Type::Reference(reference) = &*argument.ty
            && !last_is(&reference.elem, &["str"])
        {
            let text = "a row-wise UDF takes values (numbers, bool, &str, String, or Option of one). For whole columns \
                        take &Series, &Column or &ArrayRef and say what is returned: #[regatta::udf(dtype = DataType::...)]";
            return Err(Error::new_spanned(&argument.ty, text));
        }
    }
    let returned = match &function.sig.output {
        ReturnType::Type(_, returned) if matches!(**returned, Type::ImplTrait(_)) => {
            return Err(Error::new_spanned(returned, "the column's dtype comes from this type: write it out"));
        }
        ReturnType::Type(_, returned) => returned,
        ReturnType::Default => {
            return Err(Error::new_spanned(&function.sig, "a UDF returns a value for each row: give it a return type"));
        }
    };
    let types: Vec<_> = arguments.iter().map(|argument| &argument.ty).collect();
    let names = arguments.iter().enumerate().map(|(index, argument)| match &*argument.pat {
        Pat::Ident(pattern) => pattern.ident.to_string(),
        _ => format!("argument {}", index + 1),
    });
    let indices = 0..arguments.len();
    let Form { sync, state, map, wait, .. } = form;
    let columns: Vec<_> = indices.clone().map(|index| format_ident!("column_{index}")).collect();
    // What a row reports is told apart from what others do that run at the same time.
    let (row, context) = match sync {
        Some(_) => (quote!(row, context: &::regatta::udf::Context), context.as_ref().map(|_| quote!(context,))),
        None => (quote!(row), context.clone()),
    };
    Ok(quote! {
        fn output(
            &self,
            inputs: &[::regatta::polars::prelude::Field],
        ) -> ::regatta::udf::UdfResult<::regatta::polars::prelude::DataType> {
            ::regatta::udf::rows::check(inputs, &[#(::regatta::udf::rows::takes::<#types>(#names)),*])?;
            ::core::result::Result::Ok(::regatta::udf::rows::dtype_of::<#returned>())
        }

        fn takes(&self) -> ::std::vec::Vec<::regatta::polars::prelude::DataType> {
            ::std::vec![#(::regatta::udf::rows::dtype_taken::<#types>()),*]
        }

        #sync fn run(
            &self,
            (): #state,
            batch: &::regatta::udf::Batch,
        ) -> ::regatta::udf::UdfResult<::regatta::polars::prelude::Column> {
            let inputs = ::regatta::udf::rows::Inputs::new(batch);
            #(let #columns = inputs.values::<#types>(#indices)?;)*
            ::regatta::udf::rows::#map(<Self as ::regatta::udf::Registered>::NAME, batch, #sync |#row| {
                ::core::option::Option::Some(#ident(#context #(#columns.at(row)?),*)#wait)
            })#wait
        }
    })
}

fn batch_wise(ident: &Ident, form: &Form, dtype: &Expr, arguments: &Arguments<'_>) -> Result<Tokens, Error> {
    let Arguments { context, columns: arguments } = arguments;
    let mut types = Vec::new();
    for argument in arguments {
        match &*argument.ty {
            Type::Reference(reference)
                if reference.mutability.is_none() && last_is(&reference.elem, &["Series", "Column", "ArrayRef"]) =>
            {
                types.push(&reference.elem);
            }
            other => {
                let text = "with `dtype` the function is batch-wise: it takes &Series, &Column or &ArrayRef (arrow-rs). \
                            For one value at a time leave `dtype` out: it comes from the return type";
                return Err(Error::new_spanned(other, text));
            }
        }
    }
    let indices = 0..arguments.len();
    let count = arguments.len();
    let Form { sync, state, wait, .. } = form;
    Ok(quote! {
        fn output(
            &self,
            inputs: &[::regatta::polars::prelude::Field],
        ) -> ::regatta::udf::UdfResult<::regatta::polars::prelude::DataType> {
            ::regatta::udf::rows::check_count(inputs, #count)?;
            ::core::result::Result::Ok(#dtype)
        }

        #sync fn run(
            &self,
            (): #state,
            batch: &::regatta::udf::Batch,
        ) -> ::regatta::udf::UdfResult<::regatta::polars::prelude::Column> {
            ::regatta::udf::rows::BatchAnswer::into_column(
                #ident(#context #(&<#types as ::regatta::udf::rows::WholeColumn>::of(batch.column(#indices)?)?),*)#wait
            )
        }
    })
}

/// Whether this is a path that ends in one of these names.
fn last_is(ty: &Type, names: &[&str]) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|last| names.iter().any(|name| last.ident == name))
}
