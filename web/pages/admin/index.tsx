import { renderPage } from '../shared/page';
import './mantine.css';
import { Admin } from './admin';

renderPage(<Admin />);
