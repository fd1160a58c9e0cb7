import { createTheme, DrawerRoot, ModalRoot, Skeleton, Tooltip } from '@mantine/core';

/**
 * What the theme sets in the components. Colours and fonts are in theme.css.
 *
 * The security policy of the pages allows no inline style element. So a page uses none of the components and properties of Mantine
 * that write one: Grid, SimpleGrid, AppShell, and properties with a value for each breakpoint. CSS modules do this instead.
 */
export const theme = createTheme({
  respectReducedMotion: true,
  cursorType: 'pointer',
  components: {
    // theme.css locks the page behind a dialog.
    ModalRoot: ModalRoot.extend({ defaultProps: { lockScroll: false, centered: true } }),
    DrawerRoot: DrawerRoot.extend({ defaultProps: { lockScroll: false } }),
    Skeleton: Skeleton.extend({ defaultProps: { 'aria-hidden': true } }),
    Tooltip: Tooltip.extend({ defaultProps: { withArrow: true, events: { hover: true, focus: true, touch: false } } }),
  },
});
