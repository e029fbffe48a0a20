//! What `blat-target` says of its own command line.

/// Every command and option; the check of the man page reads it.
pub const HELP: &str = "\
blat-target: the part of blat that runs on a target machine

usage: blat-target serve      serve one session with a host, on standard input and output
       blat-target hello      print version, build and architecture on one line, and exit
       blat-target --version  the same
       blat-target --help     print this
";
