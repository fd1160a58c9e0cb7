import { renderPage } from '../shared/page';
import { Shop } from './shop';

renderPage(<Shop />);
