/** A new idempotency key. (`crypto.randomUUID` exists only on HTTPS and on localhost.) */
export const newKey = (): string => crypto.getRandomValues(new Uint8Array(16)).reduce((key, byte) => key + byte.toString(16).padStart(2, '0'), '');
