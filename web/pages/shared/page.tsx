// The outermost part of each page: its theme and its formats.
import './mantine.css';
import './theme.css';
import { MantineProvider } from '@mantine/core';
import { StrictMode, type ReactNode } from 'react';
import { createRoot } from 'react-dom/client';
import { theme } from './theme';

/** Shows a page in the element `#root`. */
export function renderPage(page: ReactNode): void {
  createRoot(document.getElementById('root')!).render(
    <StrictMode>
      {/* Without these two style elements, which the security policy does not allow. */}
      <MantineProvider theme={theme} defaultColorScheme="auto" withCssVariables={false} withGlobalClasses={false}>
        {page}
      </MantineProvider>
    </StrictMode>,
  );
}
