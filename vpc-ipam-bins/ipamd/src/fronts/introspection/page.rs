//! The page that a browser shows at `/`: the node at a glance, of nothing but what the daemon itself serves.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use vpc_ipam_core::{ActionId, AddressUse, BlockState, Explanation, Failure, Issued, Management};
use vpc_ipam_protocol::{
    AddressInUse, Answer, BlockInventory, EniInventory, Inventory, NodeEvent, NodeEventKind,
    Request,
};

use crate::fronts::ask::{Asker, NoAnswer};

/// Nothing from elsewhere, nothing inline, in no frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// How many decisions the page shows.
const DECISIONS_MAX: usize = 25;

pub(super) fn routes() -> Router<Asker> {
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(CONTENT_TYPE, kind)], text) })
    };
    Router::new()
        .route("/page/page.css", file("text/css; charset=utf-8", include_str!("page/page.css")))
        .route(
            "/page/page.js",
            file("text/javascript; charset=utf-8", include_str!("page/page.js")),
        )
        .route("/page/node", get(node))
}

/// Returns the page; it asks for what it shows itself.
pub(super) fn html() -> Response {
    ([(CONTENT_SECURITY_POLICY, POLICY)], Html(include_str!("page/page.html"))).into_response()
}

/// Returns what the page shows, in words where it shows words.
async fn node(State(asker): State<Asker>) -> Result<Json<Value>, NoAnswer> {
    let inventory = asker.inventory().await?;
    let happened = match asker.ask(Request::Events { after: 0, wait: 0 }).await? {
        Answer::Events(happened) => happened.events,
        other => unreachable!("the loop answers a question for events with {other:?}"),
    };
    let mut node = shown(&inventory);
    node["decisions"] = decisions(&happened);
    Ok(Json(node))
}

/// Returns the latest decisions and grants, the latest first.
fn decisions(happened: &[NodeEvent]) -> Value {
    let failed: BTreeMap<ActionId, &Failure> = happened
        .iter()
        .filter_map(|it| match &it.what {
            NodeEventKind::Failed { id, failure } => Some((*id, failure)),
            _ => None,
        })
        .collect();
    let decisions = happened.iter().rev().filter_map(|NodeEvent { at, what, .. }| {
        let at = at.to_string();
        Some(match what {
            NodeEventKind::Issued(Issued { id, action, because, .. }) => json!({
                "at": at,
                "what": action.to_string(),
                "because": because.to_string(),
                "failed": failed.get(id).map(|failure| failure.message.clone()),
            }),
            NodeEventKind::Assigned { .. }
            | NodeEventKind::Imported { .. }
            | NodeEventKind::Refused { .. }
            | NodeEventKind::Released { .. }
            | NodeEventKind::Repaired { .. }
            | NodeEventKind::Reconfigured { .. } => json!({ "at": at, "what": what.to_string() }),
            _ => return None,
        })
    });
    json!(decisions.take(DECISIONS_MAX).collect::<Vec<_>>())
}

fn shown(inventory: &Inventory) -> Value {
    let Explanation { at, instance, instance_type, wanted, doing, next, waiting, .. } =
        &inventory.explanation;
    let blocked = inventory.explanation.blocked.iter().filter(|it| !it.is_next_reading());
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "at": at.to_string(),
        "instance": instance,
        "instance_type": instance_type,
        "zone": inventory.zone,
        "ready": inventory.ready,
        "reason": inventory.reason,
        "problems": inventory.problems,
        "enis": inventory.enis.iter().map(eni).collect::<Vec<_>>(),
        "enis_max": inventory.enis_max,
        "addresses_max": inventory.addresses_max,
        "waiting": waiting.len(),
        "wanted": wanted
            .iter()
            .map(|it| json!({ "card": it.card.to_string(), "stock": it.stock.to_string(), "target": it.target.to_string(), "demand": it.demand.to_string() }))
            .collect::<Vec<_>>(),
        "doing": doing
            .iter()
            .map(|it| json!({ "what": it.action.to_string(), "because": it.because.to_string() }))
            .collect::<Vec<_>>(),
        "next": next
            .iter()
            .map(|it| json!({ "what": it.action.to_string(), "because": it.because.to_string() }))
            .collect::<Vec<_>>(),
        "blocked": blocked
            .map(|it| json!({
                "what": it.wanted.to_string(),
                "waiting_on": it.waiting_on.to_string(),
                "until": it.waiting_on.until().map(|at| at.to_string()),
            }))
            .collect::<Vec<_>>(),
        "settings": inventory.settings,
    })
}

fn eni(eni: &EniInventory) -> Value {
    let mut blocks: Vec<&BlockInventory> = eni.blocks.iter().collect();
    blocks.sort_by_key(|block| block.net);
    json!({
        "id": eni.id,
        "card": eni.card.0,
        "device": eni.device.0,
        "primary": eni.primary,
        "stage": eni.stage.to_string(),
        "managed": eni.management == Management::Managed,
        "excluded": eni.excluded,
        "subnet": eni.subnet,
        "table": eni.route_table,
        "blocks": blocks.into_iter().map(block).collect::<Vec<_>>(),
    })
}

fn block(block: &BlockInventory) -> Value {
    let withheld = match block.state {
        BlockState::Confirmed => None,
        BlockState::Suspect { by, since } => Some(format!("{by} did not show it at {since}")),
        BlockState::Releasing { since } => Some(format!("it is being released since {since}")),
        _ => Some("it cannot be relied on".to_string()),
    };
    json!({
        "net": block.net,
        "capacity": block.capacity,
        "withheld": withheld,
        "in_use": block.in_use.iter().map(in_use).collect::<Vec<_>>(),
    })
}

fn in_use(AddressInUse { address, used, pod }: &AddressInUse) -> Value {
    let (state, until) = match used {
        AddressUse::Assigned => ("assigned", None),
        AddressUse::Cooling { until, .. } => ("cooling", Some(until.to_string())),
        AddressUse::Untracked => ("untracked", None),
    };
    json!({
        "address": address,
        "state": state,
        "until": until,
        "pod": pod.as_ref().map(|pod| format!("{}/{}", pod.pod.namespace, pod.pod.name)),
        "container": pod.as_ref().map(|pod| pod.key.container()),
        "since": pod.as_ref().map(|pod| pod.since.to_string()),
    })
}
