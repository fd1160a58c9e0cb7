//! A TCP proxy in front of a store that can refuse connections or swallow everything that is sent.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    Open,
    /// Refuses connections and closes those that are open.
    Closed,
    /// Connections stay open, but no byte gets through.
    Silent,
}

pub struct Gate {
    /// Where it listens: host and port.
    pub address: String,
    passage: watch::Sender<Passage>,
    store: Arc<Mutex<String>>,
}

impl Gate {
    /// An open gate in front of the store at this address.
    pub async fn in_front_of(store: &str) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let passage = watch::Sender::new(Passage::Open);
        let store = Arc::new(Mutex::new(store.to_owned()));
        tokio::spawn(serve(listener, store.clone(), passage.subscribe()));
        Gate { address, passage, store }
    }

    /// Leads new connections to the store at this address. Open connections stay as they are.
    pub fn redirect(&self, store: &str) {
        *self.store.lock().unwrap() = store.to_owned();
    }

    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

/// Accepts connections until the gate is dropped.
async fn serve(listener: TcpListener, store: Arc<Mutex<String>>, mut passage: watch::Receiver<Passage>) {
    let (address, mut listener) = (listener.local_addr().unwrap(), Some(listener));
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await.unwrap().0,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            client = accepted => {
                let store = store.lock().unwrap().clone();
                if let Ok(store) = TcpStream::connect(store).await {
                    let ((from_client, to_client), (from_store, to_store)) = (client.into_split(), store.into_split());
                    tokio::spawn(copy(from_client, to_store, passage.clone()));
                    tokio::spawn(copy(from_store, to_client, passage.clone()));
                }
            }
            changed = passage.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *passage.borrow_and_update();
                listener = match now {
                    Passage::Closed => None,
                    _ if listener.is_some() => listener,
                    _ => Some(TcpListener::bind(address).await.unwrap()),
                };
            }
        }
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut passage: watch::Receiver<Passage>) {
    let mut closed = passage.clone();
    let copying = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            drop(passage.wait_for(|passage| *passage == Passage::Open).await);
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = copying => {}
        () = async { drop(closed.wait_for(|passage| *passage == Passage::Closed).await) } => {}
    }
}
