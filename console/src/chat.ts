// The parts of a conversation on the page Try.
import type { Route } from "./types";

export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

/** One model's answer to a turn. Requests change it in place, and the page is drawn anew at most once a frame. */
export interface Answer {
  number: number;
  asked: string;
  text: string;
  model: string | null;
  reason: string | null;
  requestId: string | null;
  routeMs: number | null;
  firstToken: number | null;
  total: number | null;
  tokens: number | null;
  finish: string | null;
  running: boolean;
  error: unknown;
  verdict: "right" | "wrong" | null;
  verdictNote: string | null;
  stop: AbortController;
}

export interface Exchange {
  number: number;
  messages: Message[];
  answers: Answer[];
  /** The answer that the conversation goes on with. */
  kept: number;
  route: Route | null;
  routeError: unknown;
}

export interface Options {
  model: string;
  system: string;
  maxTokens: number;
  temperature: number;
}
