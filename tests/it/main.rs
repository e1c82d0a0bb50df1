//! The black-box tests: the library's seams from outside, and the built binary.

mod admin;
mod api;
mod astrom;
mod backlog;
mod bombs;
mod callbacks;
mod circle;
mod clock;
#[cfg(feature = "postgres")]
mod cluster;
mod commands;
mod config;
mod contract;
mod cos_trigger;
mod daemon;
mod explain;
mod export;
mod forward;
mod full_disk;
mod hostile;
mod inquire;
mod layers;
mod life;
mod metrics;
mod model;
mod monitoring;
mod moving;
mod network;
mod news;
mod nothing_lost;
mod older;
mod on_call;
#[cfg(feature = "otlp")]
mod otlp;
mod outbound;
mod page;
mod peers;
mod port_entity;
mod port_run;
#[cfg(feature = "postgres")]
mod postgres;
mod proxy;
mod readme;
mod real_zabbix;
#[cfg(feature = "postgres")]
mod relay_postgres;
mod replay_diff;
mod rig;
mod secmaster;
mod senders;
mod server;
mod slow_readers;
mod store;
mod stores;
mod strangers;
mod stream;
mod stub;
mod tail;
mod traces;
mod upkeep;
mod way_back;
mod whole_circle;
mod wire;
mod zabbix;
mod zabbix_apply;
