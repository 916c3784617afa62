// Figures as text. Everything is in fixed places, so that figures that change do not move what is beside them.

export const count = (value: number): string => Math.round(value).toLocaleString("en");

export function compact(value: number): string {
  if (value < 1000) return String(Math.round(value));
  return Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(1)} s`;
}

export const unit = (value: number | null | undefined): string =>
  value === null || value === undefined ? "–" : value.toFixed(3).replace(/^0/, "").replace(/^-0/, "-");

export const signed = (value: number): string => (value > 0 ? "+" : value < 0 ? "−" : "") + unit(Math.abs(value));

export const percent = (value: number): string => `${Math.round(value * 100)} %`;

export const bytes = (value: number): string =>
  value < 1 << 20 ? `${(value / 1024).toFixed(0)} KiB` : `${(value / (1 << 20)).toFixed(1)} MiB`;

export function clock(epoch: number): string {
  const date = new Date(epoch * 1000);
  const today = new Date().toDateString() === date.toDateString();
  const time = date.toLocaleTimeString("en-GB");
  return today ? time : `${date.toISOString().slice(0, 10)} ${time.slice(0, 5)}`;
}

/** Seconds since 1970 of a time that is written so, or as ISO 8601; null where there is none. */
export function epoch(moment: number | string | null | undefined): number | null {
  const found = typeof moment === "string" ? Date.parse(moment) / 1000 : moment;
  return found === null || found === undefined || !Number.isFinite(found) ? null : found;
}

export function when(moment: number | string | null | undefined): string {
  const found = epoch(moment);
  return found === null ? "–" : clock(found);
}

/** The share of a canary: small ones have a place behind the point. */
export const share = (value: number): string => `${Number((value * 100).toFixed(value < 0.1 ? 1 : 0))} %`;

const CANARY = "@canary";

/** The id by which a learnware's canary is served and recorded. */
export const canaryOf = (id: string): string => id + CANARY;

/** The learnware of an id that may be its canary's. */
export const learnwareOf = (id: string): string => (id.endsWith(CANARY) ? id.slice(0, -CANARY.length) : id);

/** The last part of a long name of a replica, which tells it from others. */
export const short = (id: string): string => id.split("#").pop() ?? id;

/** A hue in degrees for a learnware, always the same one, and its canary's too. */
export function hue(model: string): number {
  const id = learnwareOf(model);
  let hash = 2166136261;
  for (let place = 0; place < id.length; place++) hash = Math.imul(hash ^ id.charCodeAt(place), 16777619);
  return (((hash >>> 0) % 24) * 15 + 10) % 360;
}

/** The meaning of a reason, in words. */
export function reason(value: string): string {
  const parts = value.split(":");
  const named = parts[0] === "base" ? 2 : 1;
  const name = parts.slice(0, named).join(":");
  const rest = parts.slice(named);
  const known: Record<string, string> = {
    matched: "the request asks for what it answers",
    session: "an earlier turn asked for it",
    task: "chosen for this task specification",
    named: "the request names it",
    "base:low-confidence": "no learnware answers what is asked",
    "base:better": "no learnware is expected to be better",
    "base:explanation": "the turn asks for words about an answer",
    "base:interface-task": "a chat front end asks for itself",
    "base:mixed-prompts": "prompts ask for different learnwares",
    "base:no-text": "no text to choose by",
    "base:no-model": "the request names no model",
    "base:no-learnware": "there is nothing to choose from",
    "base:not-served": "the chosen one is not served",
    "base:not-loaded": "the chosen one could not be loaded",
    "base:not-allowed": "the key does not allow the chosen one",
    "base:router-error": "the router failed",
    "base:router-deadline": "the decision took too long",
    "base:router-overload": "too many requests to decide on",
    "base:router-unreachable": "no router answers",
    "base:router-timeout": "the router did not answer in time",
    "base:no-choice": "no choice reached the replica",
  };
  const stands: Record<string, string> = {
    resident: ", standing in for the chosen one",
    next: ", the next best",
    explore: "; nearly as good as the best, tried to learn of it",
    canary: ", answered by its canary: a new version on trial",
  };
  return (known[name] ?? "") + rest.map((part) => stands[part] ?? "").join("");
}
