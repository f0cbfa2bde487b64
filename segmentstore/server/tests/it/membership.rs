//! A controller in another process hears of the store, also after it was away.

use std::io::ErrorKind;
use std::net::SocketAddr;

use parking_lot::Mutex;
use sarit_proto::controller::internal::membership_server::{Membership, MembershipServer};
use sarit_proto::controller::internal::{RegistrationAck, StoreRegistration};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::world::{PATIENCE, World};

/// A controller that refuses some stores, then tells whom it heard of.
struct Registrar {
    refusals: Mutex<u32>,
    heard: mpsc::UnboundedSender<StoreRegistration>,
}

#[tonic::async_trait]
impl Membership for Registrar {
    async fn register(
        &self,
        request: Request<StoreRegistration>,
    ) -> Result<Response<RegistrationAck>, Status> {
        let mut refusals = self.refusals.lock();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(Status::unavailable("starting"));
        }
        self.heard.send(request.into_inner()).unwrap();
        Ok(Response::new(RegistrationAck { heartbeat_ms: 1 }))
    }
}

/// A controller's process: ends with all its connections.
struct Process(Option<Runtime>);

impl Process {
    /// Serves at `address`, once whoever had it before has gone; returns the port as well.
    async fn start(address: SocketAddr, registrar: Registrar) -> (u16, Self) {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let incoming = loop {
            let entered = runtime.enter();
            match TcpIncoming::bind(address) {
                Ok(incoming) => break incoming,
                Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
            }
            drop(entered);
            yield_now().await;
        };
        let port = incoming.local_addr().unwrap().port();
        let server = Server::builder().add_service(MembershipServer::new(registrar));
        runtime.spawn(server.serve_with_incoming(incoming));
        (port, Self(Some(runtime)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test]
async fn a_store_registers_again_and_again_also_after_the_controller_was_away() {
    let (heard, mut registrations) = mpsc::unbounded_channel();
    let registrar = |refusals| Registrar {
        refusals: Mutex::new(refusals),
        heard: heard.clone(),
    };
    let (port, process) = Process::start(([127, 0, 0, 1], 0).into(), registrar(2)).await;
    let world = World::start_with(|config| {
        config.controller = Some(format!("127.0.0.1:{port}"));
        config.advertised = Some("store.example:7777".to_owned());
    })
    .await;
    let mut next = async || {
        let next = timeout(PATIENCE, registrations.recv()).await;
        next.expect("it registers").unwrap()
    };
    let first = next().await;
    assert_eq!(
        (&*first.advertised_host, first.advertised_port),
        ("store.example", 7777)
    );
    let containers = (
        first.first_container,
        first.container_count,
        first.total_containers,
    );
    assert_eq!((containers, first.protocol_version), ((0, 4, 4), 1));
    assert_eq!(first.store_id, world.inspect().report().uuid);
    assert_eq!(next().await, first);
    drop(process);
    let (_, _process) = Process::start(([127, 0, 0, 1], port).into(), registrar(0)).await;
    assert_eq!(next().await, first);
    world.stop().await.unwrap();
}

#[tokio::test]
async fn a_store_serves_without_its_controller() {
    let nobody = "127.0.0.1:1".to_owned();
    let world = World::start_with(|config| config.controller = Some(nobody)).await;
    world.peer().await.create("scope/stream/0.#epoch.0").await;
    world.stop().await.unwrap();
}
