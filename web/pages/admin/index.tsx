import { renderPage } from '../shared/page';
import { Admin } from './admin';

renderPage(<Admin />);
