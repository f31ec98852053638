//! The admin API's client, as the command line uses it.
