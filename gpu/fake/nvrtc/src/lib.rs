//! A stand-in for NVRTC, for tests: compiles CUDA C++ with the host's compiler, for the fake driver. What it calls machine
//! code of a device is a shared object of this machine. The compiler is `CXX`, else `c++`.

#![allow(non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, process, slice};

type Code = c_int;

const OK: Code = 0;
const INVALID_INPUT: Code = 3;
const COMPILATION: Code = 6;
const INTERNAL: Code = 11;

/// What makes CUDA C++ C++.
const SHIM: &str = include_str!("../cuda_shim.h");
const ARCHS: [c_int; 7] = [75, 80, 86, 89, 90, 100, 120];

struct Program {
    source: String,
    image: Vec<u8>,
    log: Vec<u8>,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> Code {
    // No real one's; and another one for each shim, so that what a cache has of an older one is not used.
    let shim = SHIM.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
    unsafe {
        major.write(0);
        minor.write((shim >> 1) as c_int);
    }
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> Code {
    unsafe { count.write(ARCHS.len() as c_int) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetSupportedArchs(archs: *mut c_int) -> Code {
    unsafe { archs.copy_from_nonoverlapping(ARCHS.as_ptr(), ARCHS.len()) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut *mut c_void,
    source: *const c_char,
    _: *const c_char,
    _: c_int,
    _: *const *const c_char,
    _: *const *const c_char,
) -> Code {
    let Ok(source) = unsafe { CStr::from_ptr(source) }.to_str() else { return INVALID_INPUT };
    let made = Box::new(Program { source: source.to_owned(), image: Vec::new(), log: b"\0".to_vec() });
    unsafe { program.write(Box::into_raw(made).cast()) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcDestroyProgram(program: *mut *mut c_void) -> Code {
    unsafe { drop(Box::from_raw((*program).cast::<Program>())) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCompileProgram(program: *mut c_void, count: c_int, options: *const *const c_char) -> Code {
    let program = unsafe { &mut *program.cast::<Program>() };
    let options = unsafe { slice::from_raw_parts(options, count as usize) };
    let options = options.iter().map(|option| unsafe { CStr::from_ptr(*option) }.to_string_lossy());
    // The others speak of devices.
    let defines: Vec<String> = options
        .filter_map(|option| match option.strip_prefix("--define-macro=") {
            Some(define) => Some(format!("-D{define}")),
            None => option.starts_with("-D").then(|| option.to_string()),
        })
        .collect();
    match compile(&program.source, &defines) {
        Ok(Ok(image)) => {
            program.image = image;
            OK
        }
        Ok(Err(mut log)) => {
            log.push(0);
            program.log = log;
            COMPILATION
        }
        Err(error) => {
            program.log = format!("the host's compiler cannot be run: {error}\0").into_bytes();
            INTERNAL
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetCUBINSize(program: *mut c_void, size: *mut usize) -> Code {
    unsafe { size.write((*program.cast::<Program>()).image.len()) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetCUBIN(program: *mut c_void, to: *mut u8) -> Code {
    let image = unsafe { &(*program.cast::<Program>()).image };
    unsafe { to.copy_from_nonoverlapping(image.as_ptr(), image.len()) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTXSize(program: *mut c_void, size: *mut usize) -> Code {
    unsafe { nvrtcGetCUBINSize(program, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTX(program: *mut c_void, to: *mut u8) -> Code {
    unsafe { nvrtcGetCUBIN(program, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLogSize(program: *mut c_void, size: *mut usize) -> Code {
    unsafe { size.write((*program.cast::<Program>()).log.len()) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLog(program: *mut c_void, to: *mut u8) -> Code {
    let log = unsafe { &(*program.cast::<Program>()).log };
    unsafe { to.copy_from_nonoverlapping(log.as_ptr(), log.len()) };
    OK
}

#[unsafe(no_mangle)]
extern "C" fn nvrtcGetErrorString(_: Code) -> *const c_char {
    c"an error of the fake compiler".as_ptr()
}

/// A shared object, or what the compiler says against it.
fn compile(source: &str, defines: &[String]) -> std::io::Result<Result<Vec<u8>, Vec<u8>>> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = Folder(env::temp_dir().join(format!("fake-nvrtc-{}-{number}", process::id())));
    fs::create_dir(&folder.0)?;
    let (input, output) = (folder.0.join("kernels.cpp"), folder.0.join("kernels.so"));
    let entries: String = kernels(source).map(|name| format!("REGATTA_KERNEL({name})\n")).collect();
    fs::write(folder.0.join("cuda_shim.h"), SHIM)?;
    fs::write(&input, format!("#include \"cuda_shim.h\"\n#line 1 \"kernels.cu\"\n{source}\n{entries}"))?;
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let said = Command::new(compiler)
        .args(["-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-w", "-fPIC", "-shared"])
        .args(defines)
        .arg("-o")
        .args([&output, &input])
        .output()?;
    Ok(if said.status.success() { Ok(fs::read(&output)?) } else { Err(said.stderr) })
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The names of the kernels in a source: what stands between `void` and the parameters of each `__global__` function.
fn kernels(source: &str) -> impl Iterator<Item = &str> {
    let functions = source.split("__global__").skip(1);
    functions.filter_map(|function| Some(function.split_once("void ")?.1.split_once('(')?.0.trim()))
}
