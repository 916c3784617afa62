// The shapes of what the stack answers. Everything in them that a learnware's provider or a user wrote is shown as text.

export interface Session {
  tenant: string;
  admin: boolean;
  metrics: boolean;
  keys: boolean;
  changes: boolean;
  version: string;
  base: string;
  auto: string[];
  decisions: boolean;
  learns: boolean;
  max_upload_bytes: number;
}

export interface Candidate {
  learnware: string;
  expected: number;
  score: number;
  home?: string;
  tiers?: Record<string, string>;
  may_answer?: boolean;
}

export interface TaskProbability {
  task: string;
  probability: number;
}

export interface Route {
  learnware: string | null;
  reason: string;
  explanation: string;
  score: number;
  confidence: number;
  ask: string[];
  tasks: TaskProbability[];
  base: { expected: number };
  match: number;
  min_match: number | null;
  candidates: Candidate[];
  replica: { id: string; why: string; tier: string; requests: Record<string, number>; bound: number } | null;
  prompts: number;
  turns: number;
  route_ms: number;
}

export interface Card {
  id: string;
  version: number;
  name: string;
  description: string;
  base_model: { id: string; revision?: string };
  domain: string;
  tasks: string[];
  languages: string[];
  licence: string;
  author: string;
  source?: string;
  training?: string;
  examples?: string[];
}

export interface Probe {
  rows: number;
  probability: number;
  base_probability: number;
}

/** What is known of a learnware's tasks, by where it is known from. */
export interface Known {
  probes: Record<string, Probe>;
  feedback?: {
    fault?: string;
    tasks?: Record<string, { gain: number; pieces: number }>;
    held?: { task: string; gain: number; would_be: number }[];
  };
}

export interface OffTask {
  prompts: number;
  drift: number;
  drift_interval: [number, number];
  degenerate: number;
  degenerate_share: [number, number];
}

export interface Learnware {
  id: string;
  version: number;
  state: string;
  reason: string | null;
  notes: string[];
  changed: string;
  sha256: string | null;
  card: Card | null;
  chosen_by_auto: boolean;
  not_chosen_because?: string;
  known?: Known;
  off_task?: { measured: Record<string, OffTask | null>; loss: Record<string, number>; note: string; protocol: string };
  served?: boolean;
  pending?: string;
  canary?: Canary | null;
  canaries?: PastCanary[];
}

/** A new version that answers a share of its learnware's requests. */
export interface Canary {
  version: number;
  share: number;
  since: Moment;
  sha256?: string | null;
}

export interface PastCanary {
  version: number;
  share: number;
  since: Moment;
  until: Moment | null;
  outcome: string;
  reason: string | null;
}

/** Seconds since 1970, or ISO 8601. */
export type Moment = number | string;

/** Two models' answers to the same requests, or what was said of their own ones, compared. */
export interface Pair extends Rate {
  first: string;
  first_version: string | null;
  second: string;
  second_version: string | null;
  kind: string;
  source: string;
  comparisons: number;
  wins: number | null;
  ties: number | null;
  losses: number | null;
  tokens: [number | null, number | null] | null;
  seconds: [number | null, number | null] | null;
}

/** How a canary does, and what its rule says of it. What comes from all tenants' requests is null to others than the admin key. */
export interface Trial {
  learnware: string;
  /** The name of this version in the engine, or its number. */
  version: string | number;
  share: number;
  since: Moment;
  until?: Moment | null;
  answers: number | null;
  state: string;
  verdict: string;
  why: string | null;
  evidence?: TrialEvidence | null;
}

export interface TrialEvidence {
  feedback?: Beside | null;
  /** Shares of failed answers. */
  failures?: Beside | null;
  /** The canary's win rates by what they are known by. */
  pairs?: Record<string, Rate>;
}

/** A number of values with their mean, of a canary and of the current version. */
export interface Beside {
  canary: [number, number | null];
  current: [number, number | null];
}

/** How often the second of two models wins, a tie counted half, with a 95 % interval. */
export interface Rate {
  win_rate: number | null;
  interval: [number, number] | null;
}

export interface Evaluations {
  since: Moment | null;
  pairs: Pair[];
  canaries: Trial[];
  judge: string | null;
  waiting: number;
  failed: number;
}

export interface LearnwareList {
  data: Learnware[];
  unserved: Record<string, number>;
  unpublished?: string;
}

export interface Adapter {
  learnware: string;
  version: string;
}

export interface Replica {
  id: string;
  answers: boolean;
  slots: number;
  device: Adapter[];
  host: Adapter[];
  counts: { device: number; host: number; disk: number };
  being_read: number;
  draining: number;
  running: number;
  waiting: Record<string, number>;
  waiting_in_engine: number;
  kv_cache: number;
  tokens: { prompt: number; generated: number };
  loads: Record<string, number>;
  evictions: Record<string, number>;
}

export interface Usage {
  requests: number;
  tokens: { prompt: number; generated: number };
  first_token: { count: number; sum: number };
  reasons?: Record<string, number>;
}

export interface Live {
  time: number;
  replicas: Replica[];
  routers: { id: string; answers: boolean; waiting: number; refused: Record<string, number> }[];
  learnwares: Record<string, Usage>;
  tenants: Record<string, Usage>;
  reasons: Record<string, number>;
  answers: Record<string, number>;
  first_token: { count: number; sum: number; buckets: [number, number][] };
}

export interface FeedbackPiece {
  time: number;
  score?: number | null;
  label?: string | null;
  answer?: string | null;
  tenant?: string;
}

export interface RecordedChoice {
  learnware: string | null;
  confidence: number;
  base: number;
  bound: number | null;
  candidates: { learnware: string; expected: number; score: number }[];
  tasks: TaskProbability[];
  ask?: string[];
  market?: number;
  prompts?: number;
  turns?: number;
}

export interface Decision {
  id: string;
  decision: string | null;
  time: number;
  tenant: string;
  path: string;
  model: string | null;
  learnware: string | null;
  version: string | null;
  reason: string;
  score: number | null;
  status: number;
  stream: boolean;
  replica: string | null;
  tier: string | null;
  tokens: { prompt: number; generated: number } | null;
  ttft_s: number | null;
  seconds: number | null;
  queue_s: number | null;
  route_ms: number | null;
  trace: string | null;
  choice: RecordedChoice | null;
  vectors?: unknown;
  text?: { prompt: unknown; answer: unknown } | null;
  feedback?: FeedbackPiece[];
}
