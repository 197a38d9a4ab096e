//! `GET /metrics` for Prometheus, on a listener of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Shared;

/// More scrapers at once than anybody has.
const MOST_CONNECTIONS: usize = 20;
/// A scrape, from the connection on.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers until the task is aborted.
pub(crate) async fn accept_loop(listener: TcpListener, shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A scraper that goes away or dawdles is nobody's problem but its own.
                    let _ = timeout(TIMEOUT, converse(stream, shared)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(prog = "tables", "metrics: accept connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &shared);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn respond(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let text = |status: StatusCode, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return text(StatusCode::NOT_FOUND, "see /metrics\n".to_owned());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, String::new());
        response.headers_mut().insert(ALLOW, ALLOWED);
        return response;
    }
    let page = shared.metrics.text(&shared.catalog().statistics());
    let mut response = text(StatusCode::OK, page);
    response.headers_mut().insert(CONTENT_TYPE, FORMAT);
    response
}

const ALLOWED: hyper::header::HeaderValue = hyper::header::HeaderValue::from_static("GET, HEAD");
const FORMAT: hyper::header::HeaderValue =
    hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
