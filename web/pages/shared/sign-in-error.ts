/** Signing in has failed. The message is a sentence for the user. */
export class SignInError extends Error {}
